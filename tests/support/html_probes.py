"""Texts that run a script, load something or break a page's structure where a page does not escape them.

What they run is `probed=1`: a browser then has `window.probed`. What they load is `/probed`.
"""

from itertools import product

_RUNS = (
    "<script>probed=1</script>",
    "<img src=/probed onerror=probed=1>",
    "<svg onload=probed=1>",
    "<svg><script href=data:,probed=1 />",
    "<body onload=probed=1>",
    "<iframe srcdoc='<script>parent.probed=1</script>'>",
    "<details open ontoggle=probed=1>",
    "<input autofocus onfocus=probed=1>",
    "<a href=javascript:probed=1 id=live>x</a>",
    "<math><a xlink:href=javascript:probed=1>x",
    "<form action=/ui/logout method=post><button autofocus>x",
    "<meta http-equiv=refresh content='0;url=/probed'>",
    "<link rel=stylesheet href=/probed>",
    "<base href=//probed.example/>",
    "<object data=/probed>",
    "<div hx-get=/probed hx-trigger=load>",
    "<div hx-sse:connect=/probed>",
    "<template><img src=/probed onerror=probed=1></template>",
    "<style>@import '/probed'</style>",
    "<plaintext>",
)
_LEAVES = (
    *("", "'>", '">', "</title></style></textarea></script>", "-->", "</pre></code></td></table>", "\\\"'>", "]]>"),
)
"""What closes the place where the text stands."""

_INSIDE = (
    *('" onmouseover="probed=1" x="', "' onfocus='probed=1' autofocus x='", '" style="position:fixed;inset:0" x="'),
    *("javascript:probed=1//", "JaVaScRiPt:probed=1", "java\tscript:probed=1"),
    "data:text/html,<script>parent.probed=1</script>",
    *("{{ 7 * 7 }}{% raw %}", "${probed=1}`probed=1`", "&lt;script&gt;probed=1&lt;/script&gt;"),
    *("&#60;img src=/probed onerror=probed=1&#62;", "\u2028</script><script>probed=1</script>\u2029"),
    *("＜script＞probed=1＜/script＞", "\u202egnp.exe\u202c", "<script\u00a0src=data:,probed=1></script>"),
    "a\r\nevent: live\r\ndata: <img src=/probed onerror=probed=1>",
    *("a\n\ndata: <script>probed=1</script>\n\n", "<scr<script>ipt>probed=1</scr</script>ipt>"),
    *("<<img src=/probed onerror=probed=1//<", "<img src=/probed onerror=probed=1"),
    *("%3Cscript%3Eprobed=1%3C/script%3E", "+ADw-script+AD4-probed=1+ADw-/script+AD4-"),
    *('=HYPERLINK("http://probed.example","x")', "<!--<script>", "<![CDATA[<script>probed=1</script>"),
    *("%s%n{0}{name}", "<x contenteditable onblur=probed=1>", "<button popovertarget=help>x</button>"),
    "<button form=x formaction=/probed>x</button>",
    '" autofocus onfocus=probed=1 data-copy data-theme-toggle x="',
    "</main></body></html><script>probed=1</script>",
    "<a target=_blank href=//probed.example>x</a>",
    "<video><source onerror=probed=1>",
    "<select><option>x</select><img src=/probed onerror=probed=1>",
    "<noscript><p title='</noscript><img src=/probed onerror=probed=1>'>",
    "<textarea autofocus onfocus=probed=1>",
    "<set attributeName=onmouseover to=probed=1>",
    "<isindex type=image src=1 onerror=probed=1>",
    "<frameset onload=probed=1>",
    "<marquee onstart=probed=1>",
)

PROBES: tuple[str, ...] = (*(leave + run for leave, run in product(_LEAVES, _RUNS)), *_INSIDE)
"""200 of them."""

PROBE = "'\"></title></textarea></script><img src=/probed onerror=probed=1><svg onload=probed=1>{{7*7}}"
"""One that leaves most places."""

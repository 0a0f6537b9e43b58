{{/* What the schema cannot say: values that contradict each other. One line each: what is wrong, what to do. */}}
{{- define "relay.refusals" -}}
{{- $settings := .Values.settings -}}
{{- $sqlite := eq .Values.database.kind "sqlite" -}}
{{- if not .Values.secret.name -}}
{{- fail "secret.name is empty: create a Secret with the relay's keys, as docs/operate/kubernetes.md shows, and set secret.name to its name" -}}
{{- end -}}
{{- if and $sqlite (gt (int .Values.replicas) 1) -}}
{{- fail (printf "replicas is %d, but database.kind is sqlite, which one node uses: set replicas to 1, or database.kind to postgresql" (int .Values.replicas)) -}}
{{- end -}}
{{- if and $sqlite .Values.roles.split -}}
{{- fail "roles.split is true, but database.kind is sqlite, which one node uses: set roles.split to false, or database.kind to postgresql" -}}
{{- end -}}
{{- if and (not $sqlite) .Values.persistence.existingClaim -}}
{{- fail "persistence.existingClaim is set, but database.kind is postgresql, which keeps nothing in a volume: remove it, or set database.kind to sqlite" -}}
{{- end -}}
{{- if hasKey ($settings.database | default dict) "url" -}}
{{- fail "settings.database.url is set, but the chart decides it: use database.kind, and for PostgreSQL the key secret.databaseUrl of the Secret" -}}
{{- end -}}
{{- if hasKey ($settings.server | default dict) "port" -}}
{{- fail "settings.server.port is set, but the container's port is always 8080: remove it, and use service.port" -}}
{{- end -}}
{{- $host := ($settings.server | default dict).host | default "" -}}
{{- if regexMatch "^(127\\.|::1$|localhost$)" $host -}}
{{- fail (printf "settings.server.host is %s, where neither probes nor the Service reach the relay: remove it, or set it to the address :: for IPv6" $host) -}}
{{- end -}}
{{- if not .Values.secret.apiKey -}}
{{- $accounts := 0 -}}
{{- range $source := $settings.sources | default dict -}}
{{- $accounts = add $accounts (len ($source.accounts | default dict)) -}}
{{- end -}}
{{- if not $accounts -}}
{{- fail "secret.apiKey is empty, and settings.sources has no account: name the Secret's key with the upstream's key, or add an account" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.secret.metricsToken) -}}
{{- fail "serviceMonitor.enabled is true, but secret.metricsToken is empty: add a token of 32 random characters to the Secret, and set secret.metricsToken to its key" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.enabled is true, but ingress.host is empty: set it to the host name of the relay" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled is true, but httpRoute.parentRefs is empty: name the gateway, such as {name: public, namespace: gateways}" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.hostnames) -}}
{{- fail "httpRoute.enabled is true, but httpRoute.hostnames is empty: list the host name of the relay" -}}
{{- end -}}
{{- $web := $settings.web | default dict -}}
{{- $server := $settings.server | default dict -}}
{{- if and $web.user_header (not $server.trusted_proxies) -}}
{{- fail "settings.web.user_header is set, but settings.server.trusted_proxies is empty: list the network of the proxy's pods there" -}}
{{- end -}}
{{- range $line := .Files.Lines "files/secrets.txt" -}}
{{- if $line -}}
{{- include "relay.refuseSecret" (dict "value" $settings "path" (splitList "." $line) "at" "settings") -}}
{{- end -}}
{{- end -}}
{{- $proxy := ($settings.security | default dict).egress_proxy | default "" -}}
{{- if and (contains "@" $proxy) (not (hasPrefix "${" $proxy)) -}}
{{- fail "settings.security.egress_proxy has a password, which the release would show: put the URL into the Secret, and write ${file:/run/secrets/revor-relay/KEY}" -}}
{{- end -}}
{{- end -}}

{{/* Refuses a secret that is written out. Takes a dict: value, path (the keys below it), at (the keys above it). */}}
{{- define "relay.refuseSecret" -}}
{{- $value := .value -}}
{{- $path := .path -}}
{{- $at := .at -}}
{{- if $path -}}
{{- $key := first $path -}}
{{- range $name, $child := $value -}}
{{- $named := kindIs "int" $name | ternary "[]" $name -}}
{{- if or (eq $key "*") (eq $key $named) -}}
{{- include "relay.refuseSecret" (dict "value" $child "path" (rest $path) "at" (kindIs "int" $name | ternary (printf "%s[%v]" $at $name) (printf "%s.%v" $at $name))) -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- range $index, $child := $value -}}
{{- include "relay.refuseSecret" (dict "value" $child "path" list "at" (printf "%s[%d]" $at $index)) -}}
{{- end -}}
{{- else if and $value (not (hasPrefix "${" (toString $value))) -}}
{{- fail (printf "%s is written out, and the release would show it: put it into the Secret, and write ${file:/run/secrets/revor-relay/KEY}" $at) -}}
{{- end -}}
{{- end -}}

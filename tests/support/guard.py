"""Guard policies that tests use."""

from relay.core.access.netguard import LOOPBACK_NETWORKS, GuardPolicy

DEVELOPMENT = GuardPolicy(allow_http=True, allow_networks=LOOPBACK_NETWORKS)
"""The policy of `relay serve --dev`: http to any port of this machine too."""

{{/* Name of every object: the release's, with revor-relay if it lacks it. */}}
{{- define "relay.name" -}}
{{- $release := .Release.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "revor-relay" $release -}}
{{- $release | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-revor-relay" ($release | trunc 28 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Labels that select the nodes: the pods that serve, poll and deliver. Never change them: a selector cannot change. */}}
{{- define "relay.selector" -}}
app.kubernetes.io/name: revor-relay
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "relay.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "relay.image" -}}
{{- $image := .Values.image -}}
{{- $path := $image.repository -}}
{{- if $image.registry -}}
{{- $path = printf "%s/%s" $image.registry $image.repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $path $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $path ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "relay.serviceAccount" -}}
{{- $account := .Values.serviceAccount -}}
{{- if $account.name -}}
{{- $account.name -}}
{{- else if $account.create -}}
{{- include "relay.name" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* A reference to a key of the Secret, as relay.yaml writes it. */}}
{{- define "relay.secretFile" -}}
${file:/run/secrets/revor-relay/{{ . }}}
{{- end -}}

{{/* relay.yaml: what the chart decides, and over it what `settings` says. */}}
{{- define "relay.settings" -}}
{{- $secret := .Values.secret -}}
{{- $settings := dict
  "server" (dict "host" "0.0.0.0" "port" 8080)
  "database" (dict "url" "sqlite:////var/lib/revor-relay/relay.db")
  "encryption" (dict "keys" (list (include "relay.secretFile" $secret.encryptionKey))) -}}
{{- if eq .Values.database.kind "postgresql" -}}
{{- $_ := set $settings "database" (dict "url" (include "relay.secretFile" $secret.databaseUrl)) -}}
{{- end -}}
{{- $host := "" -}}
{{- if .Values.httpRoute.enabled -}}
{{- $host = first .Values.httpRoute.hostnames | default "" -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}
{{- $host = .Values.ingress.host -}}
{{- end -}}
{{- if and $host (not (contains "*" $host)) -}}
{{- $_ := set $settings.server "public_url" (printf "https://%s" $host) -}}
{{- end -}}
{{- if $secret.apiKey -}}
{{- $account := dict "api_key" (include "relay.secretFile" $secret.apiKey) -}}
{{- $_ := set $settings "sources" (dict "revor" (dict "accounts" (dict "default" $account))) -}}
{{- end -}}
{{- $settings = mergeOverwrite $settings (deepCopy .Values.settings) -}}
{{- if $secret.metricsToken -}}
{{- $auth := $settings.auth | default dict -}}
{{- $token := dict "name" "prometheus" "token" (include "relay.secretFile" $secret.metricsToken) "scopes" (list "metrics") -}}
{{- $_ := set $settings "auth" (merge (dict "tokens" (append ($auth.tokens | default list) $token)) $auth) -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* Each kind of node: its name, its roles, how many, and their resources. */}}
{{- define "relay.nodes" -}}
{{- $name := include "relay.name" . -}}
{{- $nodes := list -}}
{{- if .Values.roles.split -}}
{{- range $role := list "api" "scheduler" "dispatcher" -}}
{{- $one := get $.Values.roles $role -}}
{{- $resources := $one.resources | default $.Values.resources -}}
{{- $nodes = append $nodes (dict "name" (printf "%s-%s" $name $role) "component" $role "roles" $role "replicas" $one.replicas "resources" $resources) -}}
{{- end -}}
{{- else -}}
{{- $nodes = append $nodes (dict "name" $name "component" "node" "roles" "" "replicas" .Values.replicas "resources" .Values.resources) -}}
{{- end -}}
{{- dict "nodes" $nodes | toJson -}}
{{- end -}}

{{/* Time to stop: requests, deliveries and polls in flight may end one after the other; 30 s to spare. */}}
{{- define "relay.graceSeconds" -}}
{{- $server := .Values.settings.server | default dict -}}
{{- $seconds := 20 -}}
{{- if hasKey $server "shutdown_seconds" -}}
{{- $seconds = $server.shutdown_seconds -}}
{{- end -}}
{{- add (ceil (mulf 3 $seconds)) 30 .Values.preStopSeconds -}}
{{- end -}}

{{/* Where a pod runs, and as whom: the same for nodes, the migration and the test. */}}
{{- define "relay.placement" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The pod template of a node. Takes a dict: root, node. */}}
{{- define "relay.pod" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $node := .node -}}
{{- $sqlite := eq $values.database.kind "sqlite" -}}
metadata:
  labels:
    {{- include "relay.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $node.component }}
    {{- include "relay.labels" $root | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/relay.yaml: {{ include "relay.settings" $root | sha256sum }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "relay.serviceAccount" $root }}
  terminationGracePeriodSeconds: {{ include "relay.graceSeconds" $root }}
  {{- include "relay.placement" $root | nindent 2 }}
  {{- with $values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    {{- $own := dict "labelSelector" (dict "matchLabels" (merge (dict "app.kubernetes.io/component" $node.component) (include "relay.selector" $root | fromYaml))) }}
    {{- toYaml (list (merge (deepCopy .) (hasKey . "labelSelector" | ternary dict $own))) | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - name: relay
      image: {{ include "relay.image" $root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        - serve
        - --config=/etc/revor-relay/relay.yaml
        {{- with $node.roles }}
        - --roles={{ . }}
        {{- end }}
        {{- if and (not $sqlite) (eq $values.database.migrate "start") }}
        - --auto-migrate
        {{- end }}
      env:
        - name: RELAY_TOKEN_FILE
          value: /run/secrets/revor-relay/{{ $values.secret.adminToken }}
        - name: XDG_STATE_HOME
          value: /var/lib
        # Unset: those of the image would win over relay.yaml.
        - name: RELAY_SERVER__HOST
          value: ""
        - name: RELAY_SERVER__PORT
          value: ""
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: http
          containerPort: 8080
      startupProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: {{ ceil (divf $values.startSeconds 2) }}
      livenessProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      {{- if $values.preStopSeconds }}
      lifecycle:
        preStop:
          exec:
            command: [sleep, {{ $values.preStopSeconds | quote }}]
      {{- end }}
      securityContext: {{- toYaml $values.securityContext | nindent 8 }}
      {{- with $node.resources }}
      resources: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: settings
          mountPath: /etc/revor-relay
          readOnly: true
        - name: secret
          mountPath: /run/secrets/revor-relay
          readOnly: true
        - name: tmp
          mountPath: /tmp
        {{- if $sqlite }}
        - name: data
          mountPath: /var/lib/revor-relay
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: settings
      configMap:
        name: {{ include "relay.name" $root }}
    - name: secret
      secret:
        secretName: {{ $values.secret.name }}
        defaultMode: 0440
    - name: tmp
      emptyDir: {}
    {{- if and $sqlite $values.persistence.existingClaim }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ $values.persistence.existingClaim }}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

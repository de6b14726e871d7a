{{- define "alma-bridge.name" -}}
{{- .Values.fullnameOverride | default (contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name)) | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "alma-bridge.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "alma-bridge.labels" -}}
{{ include "alma-bridge.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "alma-bridge.secretName" -}}
{{- .Values.secret.existingSecret | default (include "alma-bridge.name" .) -}}
{{- end }}

{{- /* The port of an address such as 0.0.0.0:2562 or [::]:2562. */ -}}
{{- define "alma-bridge.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end }}

{{- /* "none" if the broker is the only store, else "disk". */ -}}
{{- define "alma-bridge.storage" -}}
{{- (.Values.config.journal | default dict).storage | default "disk" -}}
{{- end }}

{{- /* "claim", "emptyDir" or "none". */ -}}
{{- define "alma-bridge.volume" -}}
{{- if eq (include "alma-bridge.storage" .) "none" }}none{{ else if .Values.persistence.emptyDir }}emptyDir{{ else }}claim{{ end -}}
{{- end }}

{{- /* What can't work, said before anything is created. */ -}}
{{- define "alma-bridge.check" -}}
{{- if not .Values.config.sinks }}
  {{- fail "config.sinks is empty: name a broker, for instance config.sinks.main = {type: kafka, brokers: [\"kafka:9092\"]}" }}
{{- end }}
{{- if and .Values.secret.existingSecret .Values.secret.stringData }}
  {{- fail "secret.existingSecret and secret.stringData exclude each other" }}
{{- end }}
{{- if not (or .Values.secret.existingSecret .Values.secret.stringData) }}
  {{- fail "the bridge needs the secret of Alma's integration profile: set secret.existingSecret to the name of a Secret with the key \"alma\"" }}
{{- end }}
{{- if and (eq .Values.mode "sidecar") (not .Values.application.containers) }}
  {{- fail "mode is sidecar, but application.containers is empty: the bridge runs beside your application" }}
{{- end }}
{{- if and (eq .Values.mode "standalone") (or .Values.application.containers .Values.application.initContainers) }}
  {{- fail "application is set, but mode is standalone: set mode to sidecar" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.adminFrom) }}
  {{- fail "serviceMonitor is enabled, but the NetworkPolicy keeps Prometheus out: set networkPolicy.adminFrom, for instance to [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
  {{- fail "ingress is enabled, but ingress.host is empty" }}
{{- end }}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) }}
  {{- fail "gateway is enabled, but gateway.parentRefs is empty" }}
{{- end }}
{{- end }}

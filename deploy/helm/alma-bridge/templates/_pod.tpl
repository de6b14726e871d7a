{{- /* The container of the bridge. In a sidecar, it is an init container that keeps running. */ -}}
{{- define "alma-bridge.container" -}}
{{- $isSidecar := eq .Values.mode "sidecar" -}}
name: alma-bridge
image: {{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- if $isSidecar }}
# A native sidecar: it starts before the application, runs beside it, and stops after it.
restartPolicy: Always
{{- end }}
args: [run, --config, /etc/alma-bridge/alma-bridge.toml, --stop-delay, {{ .Values.stop.delaySeconds }}s]
{{- with .Values.extraEnv }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - name: webhooks
    containerPort: {{ include "alma-bridge.port" .Values.config.ingress.listen }}
  - name: admin
    containerPort: {{ include "alma-bridge.port" .Values.config.admin.listen }}
startupProbe:
  httpGet:
    path: /livez
    port: admin
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /livez
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet:
    {{- if $isSidecar }}
    # Not /readyz: the readiness of a sidecar is that of the whole Pod, and the application must stay in service while a
    # journal is full or, with `storage = "none"`, a broker is down.
    path: /livez
    {{- else }}
    path: /readyz
    {{- end }}
    port: admin
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
lifecycle:
  preStop:
    sleep:
      seconds: {{ .Values.stop.preStopSeconds }}
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  # On the container, too: the containers of an application have settings of their own.
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
volumeMounts:
  # A folder, not a file: the kubelet updates it, and the bridge notices.
  - name: config
    mountPath: /etc/alma-bridge
    readOnly: true
  - name: secret
    mountPath: /run/secrets/alma-bridge
    readOnly: true
  {{- if ne (include "alma-bridge.volume" .) "none" }}
  - name: data
    mountPath: {{ .Values.config.data_dir }}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- /* Seconds until the cluster kills the Pod. In a sidecar, the bridge gets SIGTERM only after the application has ended. */ -}}
{{- define "alma-bridge.gracePeriod" -}}
{{- $stop := .Values.stop }}
{{- $sum := add $stop.preStopSeconds $stop.delaySeconds $stop.settleSeconds }}
{{- eq .Values.mode "sidecar" | ternary (add $sum .Values.application.terminationSeconds) $sum -}}
{{- end }}

{{- /*
What a running bridge does not apply by itself. If it changes, the Pods are replaced; everything else takes effect in them.
These are the sections that need a restart, and the names of keys: a watched file may not take one away.
*/ -}}
{{- define "alma-bridge.restart" -}}
{{- $config := .Values.config }}
{{- $names := list }}
{{- range $section := list "sources" "sinks" "privacy" }}
{{- range $name, $table := get $config $section | default dict }}
{{- $names = append $names (printf "%s.%s" $section $name) }}
{{- if kindIs "map" $table }}
{{- range $key, $_ := $table }}{{ $names = append $names (printf "%s.%s.%s" $section $name $key) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- list $config.data_dir $config.ingress $config.admin $config.journal ($config.log | default dict).format $names | toJson | sha256sum -}}
{{- end }}

{{- define "alma-bridge.podTemplate" -}}
{{- $isSidecar := eq .Values.mode "sidecar" -}}
{{- $volume := include "alma-bridge.volume" . -}}
metadata:
  labels:
    {{- include "alma-bridge.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: {{ $isSidecar | ternary (dig "name" "" (first (.Values.application.containers | default (list dict)))) "alma-bridge" }}
    # Changes only if the configuration changes in a way that needs a restart.
    alma-bridge/restart-if-changed: {{ include "alma-bridge.restart" . }}
    {{- if eq $volume "emptyDir" }}
    alma-bridge/warning: the journal is in an emptyDir; acknowledged events die with the Pod
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  terminationGracePeriodSeconds: {{ include "alma-bridge.gracePeriod" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.serviceAccountName }}
  serviceAccountName: {{ . }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- if not $isSidecar }}
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
    {{- end }}
    # The bridge may write its volume and read its secrets through this group.
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
  {{- if $isSidecar }}
  initContainers:
    - {{ include "alma-bridge.container" . | nindent 6 | trim }}
    {{- with .Values.application.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  containers: {{- toYaml .Values.application.containers | nindent 4 }}
  {{- else }}
  containers:
    - {{ include "alma-bridge.container" . | nindent 6 | trim }}
  {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "alma-bridge.name" . }}
    - name: secret
      secret:
        secretName: {{ include "alma-bridge.secretName" . }}
        defaultMode: 0440
    {{- if eq $volume "emptyDir" }}
    # WARNING: acknowledged events die with the Pod.
    - name: data
      emptyDir:
        sizeLimit: {{ .Values.persistence.size }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .Values.application.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    - {{ toYaml . | nindent 6 | trim }}
      labelSelector:
        matchLabels: {{- include "alma-bridge.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

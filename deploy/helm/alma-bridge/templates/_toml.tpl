{{- /*
TOML of a map, for what Helm's own toToml can't do: a number in a value is a float, and TOML tells 8 from 8.0.
Argument: (dict "path" "sinks.main" "table" MAP).
*/ -}}
{{- define "alma-bridge.toml" -}}
{{- $path := .path }}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "alma-bridge.toml.key" $key }} = {{ include "alma-bridge.toml.value" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $name := include "alma-bridge.toml.key" $key }}
{{- if $path }}{{ $name = printf "%s.%s" $path $name }}{{ end }}
{{ printf "\n[%s]" $name }}
{{- include "alma-bridge.toml" (dict "path" $name "table" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "alma-bridge.toml.key" -}}
{{- regexMatch "^[A-Za-z0-9_-]+$" . | ternary . (toJson .) -}}
{{- end }}

{{- define "alma-bridge.toml.value" -}}
{{- if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }},{{ end }} {{ include "alma-bridge.toml.key" $key }} = {{ include "alma-bridge.toml.value" (get $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ include "alma-bridge.toml.value" $item }}{{ end }}]
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ int64 . }}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end }}

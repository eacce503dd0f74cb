{{/* The name of all resources. */}}
{{- define "manager.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "manager.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "manager.labels" -}}
{{ include "manager.selector" . }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: cetrus
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "manager.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "manager.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Variables of both containers: how the platform is reached. */}}
{{- define "manager.env" -}}
- {name: CETRUS_MANAGER_DATA_DIR, value: /var/lib/cetrus-manager}
{{- if .Values.proxy.urlSecret }}
- name: CETRUS_MANAGER_PROXY
  valueFrom: {secretKeyRef: {name: {{ .Values.proxy.urlSecret }}, key: url}}
{{- else }}
- {name: CETRUS_MANAGER_PROXY, value: {{ default "none" .Values.proxy.url | quote }}}
{{- end }}
{{- if .Values.platform.caSecret }}
- {name: SSL_CERT_FILE, value: /etc/cetrus-manager/platform/ca.crt}
{{- end }}
{{- end -}}

{{- define "manager.mounts" -}}
- {name: data, mountPath: /var/lib/cetrus-manager}
- {name: tmp, mountPath: /tmp}
{{- if .Values.platform.caSecret }}
- {name: platform, mountPath: /etc/cetrus-manager/platform, readOnly: true}
{{- end }}
{{- end -}}

{{/* Peers as the values have them, or what else is meant: (list peers otherwise). */}}
{{- define "manager.peers" -}}
{{- if index . 0 -}}
{{ toYaml (index . 0) }}
{{- else -}}
{{ toYaml (index . 1) }}
{{- end -}}
{{- end -}}

{{/* The port of a URL: (list url otherwise). */}}
{{- define "manager.port" -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" (urlParse (index . 0)).host) | default (index . 1) -}}
{{- end -}}

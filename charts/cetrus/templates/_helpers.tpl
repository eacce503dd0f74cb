{{/* What the names of all resources begin with. */}}
{{- define "cetrus.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 38 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods: (list root component); without component: all pods of the release. */}}
{{- define "cetrus.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Labels of a pod, which is made anew when one of them changes: (list root component). */}}
{{- define "cetrus.podLabels" -}}
{{ include "cetrus.selector" . }}
app.kubernetes.io/part-of: cetrus
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of a resource: (list root component). */}}
{{- define "cetrus.labels" -}}
{{- $root := index . 0 -}}
{{ include "cetrus.selector" . }}
app.kubernetes.io/version: {{ default $root.Chart.AppVersion $root.Values.image.tag | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: cetrus
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "cetrus.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Who runs in a pod: nobody, or the user that is given: (list user). */}}
{{- define "cetrus.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ . }}
  runAsGroup: {{ . }}
  fsGroup: {{ . }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "cetrus.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* What all pods of the image have in common, but their containers and volumes. */}}
{{- define "cetrus.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{ include "cetrus.podSecurity" 65532 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Where the values say that pods run: (list root component values). */}}
{{- define "cetrus.placement" -}}
{{- with index . 2 }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
topologySpreadConstraints:
  - topologyKey: topology.kubernetes.io/zone
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "cetrus.selector" . | nindent 8 }}
  - topologyKey: kubernetes.io/hostname
    maxSkew: 1
    whenUnsatisfiable: {{ get (index . 2) "spread" | default "ScheduleAnyway" }}
    labelSelector:
      matchLabels:
        {{- include "cetrus.selector" . | nindent 8 }}
{{- end -}}

{{/* Variables of every container of the image that goes on running. */}}
{{- define "cetrus.env" -}}
- {name: CETRUS_DATA_DIR, value: /var/lib/cetrus}
{{- with include "cetrus.authoritiesEnv" . }}
{{ . }}
{{- end }}
- {name: CETRUS_CREDENTIALS_DIR, value: /etc/cetrus/credentials}
- {name: CETRUS_TLS_DIR, value: /etc/cetrus/tls}
- {name: CETRUS_HEALTH_LISTEN, value: ":8090"}
- {name: CETRUS_STOP_WITHIN, value: 20s}
- {name: CETRUS_LOG_LEVEL, value: {{ .Values.log.level }}}
- {name: CETRUS_LOG_FORMAT, value: {{ .Values.log.format }}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: "k8s.namespace.name={{ .Release.Namespace }},k8s.pod.name=$(POD_NAME)"}
{{- if .Values.metrics.enabled }}
- {name: OTEL_METRICS_EXPORTER, value: prometheus}
- {name: OTEL_EXPORTER_PROMETHEUS_HOST, value: 0.0.0.0}
- {name: OTEL_EXPORTER_PROMETHEUS_PORT, value: "9464"}
{{- else }}
- {name: OTEL_METRICS_EXPORTER, value: none}
{{- end }}
{{- with .Values.tracing.endpoint }}
- {name: OTEL_TRACES_EXPORTER, value: otlp}
- {name: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, value: "{{ trimSuffix "/" . }}/v1/traces"}
- {name: OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, value: http/protobuf}
{{- end }}
{{- end -}}

{{/* The event log, as every part but itself reaches it. */}}
{{- define "cetrus.natsURL" -}}
{{- if .Values.nats.enabled -}}
{{- $name := printf "%s-nats" (include "cetrus.fullname" .) -}}
{{- range $i := until (int .Values.nats.replicas) -}}
{{- if $i }},{{ end }}tls://{{ $name }}-{{ $i }}.{{ $name }}.{{ $.Release.Namespace }}.svc:4222
{{- end -}}
{{- else -}}
{{- .Values.nats.url -}}
{{- end -}}
{{- end -}}

{{/* The Service of the event log's WebSocket port, where Managers come in; none: they reach the log elsewhere. */}}
{{- define "cetrus.websocketService" -}}
{{- if .Values.nats.enabled -}}
{{- include "cetrus.fullname" . }}-nats-websocket
{{- else -}}
{{- .Values.nats.websocketService -}}
{{- end -}}
{{- end -}}

{{/* The URL of PostgreSQL, from its Secret. */}}
{{- define "cetrus.postgresEnv" -}}
- name: CETRUS_POSTGRES_URL
  valueFrom:
    secretKeyRef:
{{- if eq .Values.postgresql.mode "external" }}
      name: {{ .Values.postgresql.external.secret }}
      key: url
{{- else if eq .Values.postgresql.mode "cloudnativepg" }}
      name: {{ include "cetrus.fullname" . }}-postgres-app
      key: uri
{{- else }}
      name: {{ include "cetrus.fullname" . }}-postgres
      key: url
{{- end }}
{{- if ne .Values.postgresql.mode "evaluation" }}
# Where the URL does not say so, without it any server would do, or none that encrypts.
- {name: PGSSLMODE, value: {{ .Values.postgresql.sslMode }}}
{{- end }}
{{- if include "cetrus.postgresCA" . }}
- {name: PGSSLROOTCERT, value: /etc/cetrus/postgres/ca.crt}
{{- end }}
{{- end -}}

{{/* The Secret that has the authority of PostgreSQL's certificate in ca.crt, where it is not this release's own. */}}
{{- define "cetrus.postgresCA" -}}
{{- if eq .Values.postgresql.mode "external" -}}
{{ .Values.postgresql.external.caSecret }}
{{- else if eq .Values.postgresql.mode "cloudnativepg" -}}
{{ dig "certificates" "serverCASecret" (printf "%s-postgres-ca" (include "cetrus.fullname" .)) .Values.postgresql.cloudnativepg.spec }}
{{- end -}}
{{- end -}}

{{- define "cetrus.postgresMount" -}}
{{- if include "cetrus.postgresCA" . -}}
- {name: postgres-ca, mountPath: /etc/cetrus/postgres, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "cetrus.postgresVolume" -}}
{{- with include "cetrus.postgresCA" . -}}
- name: postgres-ca
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: ca.crt, path: ca.crt}]
{{- end -}}
{{- end -}}

{{- define "cetrus.nameKeyEnv" -}}
{{- with .Values.nameKey.kms -}}
- {name: CETRUS_NAME_KEY_KMS, value: {{ . | quote }}}
- {name: CETRUS_NAME_KEY_KMS_TOKEN_FILE, value: /etc/cetrus/kms/token}
{{- if $.Values.nameKey.kmsAuthority }}
- {name: CETRUS_NAME_KEY_KMS_CA_FILE, value: /etc/cetrus/kms/ca.crt}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The Secret of a part's certificate: (list root component). */}}
{{- define "cetrus.tlsSecret" -}}
{{ include "cetrus.fullname" (index . 0) }}-tls-{{ index . 1 }}
{{- end -}}

{{/* What is mounted into every container of the image that goes on running. */}}
{{- define "cetrus.mounts" -}}
- {name: data, mountPath: /var/lib/cetrus}
- {name: tmp, mountPath: /tmp}
- {name: credentials, mountPath: /etc/cetrus/credentials, readOnly: true}
- {name: tls, mountPath: /etc/cetrus/tls, readOnly: true}
{{- with include "cetrus.authoritiesMount" . }}
{{ . }}
{{- end }}
{{- end -}}

{{/* The authorities that certificates of parts are checked by that are none of Cetrus: storage, mail, identity providers. */}}
{{- define "cetrus.authoritiesEnv" -}}
{{- with .Values.trustedAuthorities -}}
- {name: SSL_CERT_FILE, value: /etc/cetrus/authorities/ca.crt}
{{- end -}}
{{- end -}}

{{- define "cetrus.authoritiesMount" -}}
{{- with .Values.trustedAuthorities -}}
- {name: authorities, mountPath: /etc/cetrus/authorities, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "cetrus.authoritiesVolume" -}}
{{- with .Values.trustedAuthorities -}}
- name: authorities
  configMap:
    name: {{ . }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end -}}
{{- end -}}

{{/* Volumes but "data": (list root component files), files being Secrets and a key of each. */}}
{{- define "cetrus.volumes" -}}
{{- $root := index . 0 -}}
- name: tmp
  emptyDir: {}
- name: tls
  secret:
    secretName: {{ include "cetrus.tlsSecret" . }}
    defaultMode: 0440
- name: credentials
  projected:
    defaultMode: 0440
    sources:
      {{- range index . 2 }}
      - secret:
          name: {{ include "cetrus.fullname" $root }}-{{ .secret }}
          items: [{key: {{ .key }}, path: {{ .key }}}]
          {{- if get . "optional" }}
          # It is removed once it was used.
          optional: true
          {{- end }}
      {{- end }}
{{- with include "cetrus.authoritiesVolume" $root }}
{{ . }}
{{- end }}
{{- end -}}

{{/* Ports that every container of the image has that goes on running. */}}
{{- define "cetrus.ports" -}}
- {name: health, containerPort: 8090}
{{- if .Values.metrics.enabled }}
- {name: metrics, containerPort: 9464}
{{- end }}
{{- end -}}

{{/* /healthz fails when a part is stuck for good, /readyz while it cannot do its work. */}}
{{- define "cetrus.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 2
  failureThreshold: 150
readinessProbe:
  httpGet: {path: /readyz, port: health}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* Peers as the values have them, or what else is meant: (list peers otherwise). */}}
{{- define "cetrus.peers" -}}
{{- if index . 0 -}}
{{ toYaml (index . 0) }}
{{- else -}}
{{ toYaml (index . 1) }}
{{- end -}}
{{- end -}}

{{/* What is wrong with values, told before anything is made. */}}
{{- define "cetrus.validate" -}}
{{- include "cetrus.refused" . -}}
{{- if and (not .Values.nats.enabled) (not .Values.nats.url) -}}
{{- fail "nats.url: with nats.enabled=false, name the servers of the event log, as tls://host:4222" -}}
{{- end -}}
{{- if and .Values.nats.enabled .Values.nats.url -}}
{{- fail "nats.url: it names another event log, and nats.enabled makes one here: give one of both" -}}
{{- end -}}
{{- if and .Values.nats.enabled .Values.nats.websocketService -}}
{{- fail "nats.websocketService: it leads to another event log, and nats.enabled makes one here: give one of both" -}}
{{- end -}}
{{- if and (eq .Values.postgresql.mode "external") (not .Values.postgresql.external.secret) -}}
{{- fail "postgresql.external.secret: with postgresql.mode=external, name the Secret that has the URL of the database in its key url" -}}
{{- end -}}
{{- if and (eq .Values.postgresql.mode "cloudnativepg") (not (.Capabilities.APIVersions.Has "postgresql.cnpg.io/v1")) -}}
{{- fail "postgresql.mode: cloudnativepg needs the CloudNativePG operator (postgresql.cnpg.io/v1), which this cluster does not have: install it, or choose external or evaluation" -}}
{{- end -}}
{{- if and (eq .Values.tls.source "certManager") (not (.Capabilities.APIVersions.Has "cert-manager.io/v1")) -}}
{{- fail "tls.source: certManager needs cert-manager (cert-manager.io/v1), which this cluster does not have: install it, or choose hook or supplied" -}}
{{- end -}}
{{- if and (eq .Values.tls.source "hook") (not .Values.secrets.create) -}}
{{- fail "tls.source: hook needs secrets.create: choose certManager, or supplied with the Secrets that `cetrus secrets --output DIR` makes" -}}
{{- end -}}
{{- if and .Values.mail.smtpURL (not .Values.mail.from) -}}
{{- fail "mail.from: mail.smtpURL needs a sender, as \"Cetrus <cetrus@example.com>\"" -}}
{{- end -}}
{{- if and .Values.archive.url (not .Values.archive.secret) -}}
{{- fail "archive.secret: archive.url needs the Secret that has AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" -}}
{{- end -}}
{{- if and .Values.backup.url (not .Values.backup.secret) (not .Values.archive.secret) -}}
{{- fail "backup.secret: backup.url needs the Secret that has AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" -}}
{{- end -}}
{{- if and .Values.restore.enabled (not .Values.backup.url) -}}
{{- fail "backup.url: restore.enabled puts a backup of that storage back: name it" -}}
{{- end -}}
{{- if not .Values.restore.enabled -}}
{{- $job := printf "%s-restore" (include "cetrus.fullname" .) -}}
{{- with lookup "batch/v1" "Job" .Release.Namespace $job -}}
{{- $ended := false -}}
{{- range (dig "status" "conditions" list .) -}}
{{- if and (eq .type "Complete") (eq .status "True") -}}{{- $ended = true -}}{{- end -}}
{{- end -}}
{{- if not $ended -}}
{{- fail (printf "restore.enabled: the Job %s has not put the backup back: wait until it is complete. If it has failed, nothing may begin on what it left: remove this installation with its volumes and begin the restoration again (docs/operations/backup.md)" $job) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.nameKey.kms (not .Values.nameKey.kmsSecret) -}}
{{- fail "nameKey.kmsSecret: nameKey.kms needs the Secret that has its token" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host: name the host under which Cetrus is reached" -}}
{{- end -}}
{{- if and .Values.gatewayAPI.enabled (not .Values.gatewayAPI.parentRefs) -}}
{{- fail "gatewayAPI.parentRefs: name the Gateway that the route hangs on" -}}
{{- end -}}
{{- if and .Values.gatewayAPI.enabled (not (.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1")) -}}
{{- fail "gatewayAPI.enabled: this cluster does not have the Gateway API (gateway.networking.k8s.io/v1): install it, or use ingress" -}}
{{- end -}}
{{- if and (or .Values.metrics.podMonitor.enabled .Values.metrics.rules.enabled) (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) -}}
{{- fail "metrics.podMonitor, metrics.rules: this cluster does not have the Prometheus operator (monitoring.coreos.com/v1): install it, or leave them off" -}}
{{- end -}}
{{- end -}}

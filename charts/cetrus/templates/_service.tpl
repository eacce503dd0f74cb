{{/*
A service of the platform: its Deployment, Service and PodDisruptionBudget.
Takes root, name (the target, and the key of its values), credentials (Secrets and keys), grpc,
database, names (it opens names), volumes, mounts, env, autoscaled; alone: there is one at most.
*/}}
{{- define "cetrus.service" -}}
{{- $_ := merge . (dict "grpc" false "database" false "names" false "autoscaled" false "alone" false "env" list "ports" list "mounts" list "volumes" list) -}}
{{- $root := .root -}}
{{- $values := index $root.Values .name -}}
{{- $full := printf "%s-%s" (include "cetrus.fullname" $root) .name -}}
{{- $of := list $root .name -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $full }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "cetrus.labels" $of | nindent 4 }}
spec:
  {{- if $root.Values.restore.enabled }}
  replicas: 0
  {{- else if not .autoscaled }}
  replicas: {{ if .alone }}1{{ else }}{{ $values.replicas }}{{ end }}
  {{- end }}
  strategy:
    {{- if .alone }}
    type: Recreate
    {{- else }}
    # Whoever stops hands its share on; nobody waits for what is to come.
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
    {{- end }}
  selector:
    matchLabels:
      {{- include "cetrus.selector" $of | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "cetrus.podLabels" $of | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "cetrus.pod" $root | nindent 6 }}
      terminationGracePeriodSeconds: 45
      {{- include "cetrus.placement" (list $root .name $values) | trim | nindent 6 }}
      containers:
        - name: {{ .name }}
          image: {{ include "cetrus.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: [{{ .name }}]
          {{- include "cetrus.containerSecurity" $root | nindent 10 }}
          env:
            {{- include "cetrus.env" $root | nindent 12 }}
            - {name: CETRUS_NATS_URL, value: {{ include "cetrus.natsURL" $root | quote }}}
            {{- if .database }}
            {{- include "cetrus.postgresEnv" $root | nindent 12 }}
            # The Job brings the tables up to date; a pod waits until they are.
            - {name: CETRUS_MIGRATE, value: "false"}
            {{- end }}
            {{- if .grpc }}
            - {name: CETRUS_GRPC_LISTEN, value: ":8081"}
            - {name: CETRUS_TRUSTED_PROXIES, value: {{ join "," $root.Values.trustedProxies | quote }}}
            {{- end }}
            {{- if .names }}
            {{- with include "cetrus.nameKeyEnv" $root }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- end }}
            {{- with .env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
            {{- with $values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            {{- include "cetrus.ports" $root | nindent 12 }}
            {{- with .ports }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- include "cetrus.probes" $root | nindent 10 }}
          {{- if .ports }}
          # Until all have heard that it stops, it goes on to answer.
          lifecycle: {preStop: {sleep: {seconds: 5}}}
          {{- end }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            {{- include "cetrus.mounts" $root | nindent 12 }}
            {{- if and .names $root.Values.nameKey.kms }}
            - {name: kms, mountPath: /etc/cetrus/kms, readOnly: true}
            {{- end }}
            {{- if .database }}
            {{- with include "cetrus.postgresMount" $root }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- end }}
            {{- with .mounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: data
          emptyDir: {}
        {{- include "cetrus.volumes" (list $root .name .credentials) | nindent 8 }}
        {{- if and .names $root.Values.nameKey.kms }}
        - name: kms
          secret:
            secretName: {{ $root.Values.nameKey.kmsSecret }}
            defaultMode: 0440
        {{- end }}
        {{- if .database }}
        {{- with include "cetrus.postgresVolume" $root }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- end }}
        {{- with .volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- if .grpc }}
---
# Without an address of its own: who asks sees every pod, and goes on with another when one stops.
apiVersion: v1
kind: Service
metadata:
  name: {{ $full }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "cetrus.labels" $of | nindent 4 }}
spec:
  clusterIP: None
  selector:
    {{- include "cetrus.selector" $of | nindent 4 }}
  ports:
    - {name: grpc, port: 8081, targetPort: grpc}
{{- end }}
{{- include "cetrus.budget" (list $root .name (and (not .alone) (or .autoscaled (gt (int (get $values "replicas")) 1)))) }}
{{- end -}}

{{/* A PodDisruptionBudget, where there are several pods: (list root component several). */}}
{{- define "cetrus.budget" -}}
{{- $root := index . 0 -}}
{{- if index . 2 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "cetrus.fullname" $root }}-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "cetrus.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  {{- if eq (index . 1) "nats" }}
  # A server that fills its copy counts as one that is away: no other may go until it is level, also one that is not ready just now.
  unhealthyPodEvictionPolicy: IfHealthyBudget
  {{- else }}
  # A pod that is not ready helps nobody, and must not keep its node.
  unhealthyPodEvictionPolicy: AlwaysAllow
  {{- end }}
  selector:
    matchLabels:
      {{- include "cetrus.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Values of which the schema cannot tell that they cannot work, or not what to give instead. */}}
{{- define "cetrus.refused" -}}
{{- with .Values.metering.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "metering.autoscaling.maxReplicas: %d is less than minReplicas, %d: raise the one, or lower the other" (int .maxReplicas) (int .minReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.postgresql.external.secret (ne .Values.postgresql.mode "external") -}}
{{- fail (printf "postgresql.external.secret: that database is not used with postgresql.mode=%s: choose external, or leave the Secret out" .Values.postgresql.mode) -}}
{{- end -}}
{{- with .Values.mail -}}
{{- $user := contains "@" (default "" .smtpURL) -}}
{{- if and $user (not .passwordSecret) -}}
{{- fail "mail.passwordSecret: mail.smtpURL names a user: name the Secret that has the password in its key password" -}}
{{- end -}}
{{- if and .passwordSecret (not $user) -}}
{{- fail "mail.smtpURL: mail.passwordSecret is the password of a user: name that, as smtps://user@host:465" -}}
{{- end -}}
{{- end -}}
{{- range $name := list "archive" "backup" -}}
{{- range $setting := regexFindAll "[?&][^?&]*" (index $.Values $name).url -1 -}}
{{- if not (regexMatch "^[?&](endpoint=https?(://|%3A%2F%2F)[^/]+/?|region=.+)$" $setting) -}}
{{- fail (printf "%s.url: %q is not known: only ?endpoint=https://HOST and &region=NAME may follow the bucket" $name $setting) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name := list "entryPeers" "metricsPeers" -}}
{{- range (index $.Values.networkPolicy $name) -}}
{{- with dig "ipBlock" "cidr" "" . -}}
{{- include "cetrus.network" (list (printf "networkPolicy.%s" $name) . false) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "cetrus.cron" (list "backup.schedule" .Values.backup.schedule) -}}
{{- include "cetrus.cron" (list "tls.renewalSchedule" .Values.tls.renewalSchedule) -}}
{{- with .Values.ingress.host -}}
{{- include "cetrus.host" (list "ingress.host" .) -}}
{{- end -}}
{{- range .Values.gatewayAPI.hostnames -}}
{{- include "cetrus.host" (list "gatewayAPI.hostnames" (trimPrefix "*." .)) -}}
{{- end -}}
{{- range .Values.trustedProxies -}}
{{- include "cetrus.network" (list "trustedProxies" . true) -}}
{{- end -}}
{{- include "cetrus.once" (list "commonLabels" .Values.commonLabels dict) -}}
{{- range $name := list "podMonitor" "rules" "dashboards" -}}
{{- include "cetrus.once" (list (printf "metrics.%s.labels" $name) (index $.Values.metrics $name).labels $.Values.commonLabels) -}}
{{- end -}}
{{- end -}}

{{/* Refuses what is no time of a CronJob: (list name schedule). */}}
{{- define "cetrus.cron" -}}
{{- $schedule := index . 1 -}}
{{- $fields := regexSplit " +" (trim $schedule) -1 -}}
{{- $ok := regexMatch "^@(yearly|annually|monthly|weekly|daily|midnight|hourly|every ([0-9.]+[hms])+)$" $schedule -}}
{{- if eq (len $fields) 5 -}}
{{- $ok = true -}}
{{- range $at, $number := list "[0-5]?[0-9]" "([01]?[0-9]|2[0-3])" "(0?[1-9]|[12][0-9]|3[01])" "(0?[1-9]|1[0-2]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)" "([0-6]|sun|mon|tue|wed|thu|fri|sat)" -}}
{{- $times := printf "(\\*|\\?|%[1]s(-%[1]s)?)(/[1-9][0-9]*)?" $number -}}
{{- $ok = and $ok (regexMatch (printf "(?i)^%[1]s(,%[1]s)*$" $times) (index $fields $at)) -}}
{{- end -}}
{{- end -}}
{{- if not $ok -}}
{{- fail (printf "%s: %q is no time of a CronJob: give minute, hour, day, month and weekday, as \"23 1 * * *\", or @daily" (index . 0) $schedule) -}}
{{- end -}}
{{- end -}}

{{/* Refuses what is no name of a host: (list name host). */}}
{{- define "cetrus.host" -}}
{{- $host := index . 1 -}}
{{- if or (not (regexMatch "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" $host)) (regexMatch "^[0-9.]+$" $host) -}}
{{- fail (printf "%s: %q is no name of a host: give the name alone, in small letters and without https:// or a port, as cetrus.example.com" (index . 0) $host) -}}
{{- end -}}
{{- end -}}

{{/* Refuses what is no network: (list name text address), address telling whether an address alone will do. */}}
{{- define "cetrus.network" -}}
{{- $name := index . 0 -}}
{{- $text := index . 1 -}}
{{- $octet := "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])" -}}
{{- $four := printf "%[1]s(\\.%[1]s){3}" $octet -}}
{{- $group := "[0-9A-Fa-f]{1,4}" -}}
{{- $six := printf "((%[1]s:){7}%[1]s|(%[1]s(:%[1]s){0,6})?::(%[1]s(:%[1]s){0,6})?)" $group -}}
{{- $times := ternary "?" "" (index . 2) -}}
{{- $pattern := printf "^(%[1]s(/(3[0-2]|[12]?[0-9]))%[3]s|%[2]s(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))%[3]s)$" $four $six $times -}}
{{- if not (regexMatch $pattern $text) -}}
{{- fail (printf "%s: %q is no network: write it with its length, as 10.42.0.0/16 or fd00:42::/56%s" $name $text (ternary ", or give one address" "" (index . 2))) -}}
{{- end -}}
{{- end -}}

{{/* Refuses labels that are given twice: (list name labels given), given being those that a resource gets beside the chart's own. */}}
{{- define "cetrus.once" -}}
{{- $given := concat (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "app.kubernetes.io/part-of" "helm.sh/chart") (keys (index . 2)) -}}
{{- $name := index . 0 -}}
{{- range $label, $_ := index . 1 -}}
{{- if has $label $given -}}
{{- fail (printf "%s: the label %s is set already, by the chart itself or by commonLabels: leave it out" $name $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}

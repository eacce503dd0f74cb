{{/* What is wrong with values, told before anything is made. */}}
{{- define "manager.validate" -}}
{{- if not .Values.platform.url -}}
{{- fail "platform.url: where the platform takes what Managers forward, as wss://cetrus.example.com/nats" -}}
{{- end -}}
{{- if not .Values.platform.api -}}
{{- fail "platform.api: the platform's REST address, as https://cetrus.example.com" -}}
{{- end -}}
{{- if not .Values.enrolment.tokenSecret -}}
{{- fail "enrolment.tokenSecret: the Secret that has in its key token what the platform gave when the Manager was created; make it with `kubectl create secret generic NAME --from-file=token`" -}}
{{- end -}}
{{- if and .Values.proxy.url .Values.proxy.urlSecret -}}
{{- fail "proxy.url, proxy.urlSecret: give one of both" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.proxy.urlSecret (not .Values.proxy.port) -}}
{{- fail "proxy.port: the NetworkPolicy cannot see the port in the Secret proxy.urlSecret: name it, as 3128" -}}
{{- end -}}
{{- with .Values.agents -}}
{{- if and .nodePort (eq .serviceType "ClusterIP") -}}
{{- fail "agents.nodePort: a Service of type ClusterIP has no port on nodes: leave it out, or set agents.serviceType to NodePort" -}}
{{- end -}}
{{- if and .nodePort (lt (int .nodePort) 1024) -}}
{{- fail (printf "agents.nodePort: %d is not among the ports that clusters give: take one of 30000 to 32767, unless this cluster's API server has others (--service-node-port-range), or 0 for any" (int .nodePort)) -}}
{{- end -}}
{{- if and .loadBalancerSourceRanges (ne .serviceType "LoadBalancer") -}}
{{- fail (printf "agents.loadBalancerSourceRanges: a Service of type %s has none: leave them out, and name networks in networkPolicy.agentPeers" .serviceType) -}}
{{- end -}}
{{- range .loadBalancerSourceRanges -}}
{{- include "manager.network" (list "agents.loadBalancerSourceRanges" . false) -}}
{{- end -}}
{{- end -}}
{{- $bytes := include "manager.bytes" .Values.storage.size -}}
{{- if and $bytes (ge (int64 .Values.storage.maxBufferBytes) (int64 $bytes)) -}}
{{- fail (printf "storage.maxBufferBytes: %d are not less than the volume has, storage.size: %v: give three quarters of it, %d, or make it larger" (int64 .Values.storage.maxBufferBytes) .Values.storage.size (div (mul 3 (int64 $bytes)) 4)) -}}
{{- end -}}
{{- include "manager.once" (list "commonLabels" .Values.commonLabels dict) -}}
{{- include "manager.once" (list "metrics.podMonitor.labels" .Values.metrics.podMonitor.labels .Values.commonLabels) -}}
{{- end -}}

{{/* A quantity in bytes; empty, where it is written as nobody writes a volume's. */}}
{{- define "manager.bytes" -}}
{{- if kindIs "string" . -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $unit := get (dict "_" 1 "_k" 1000 "_M" 1000000 "_G" 1000000000 "_T" 1000000000000 "_Ki" 1024 "_Mi" 1048576 "_Gi" 1073741824 "_Ti" 1099511627776) (printf "_%s" (trimPrefix $number .)) -}}
{{- if $unit -}}
{{- mulf $number $unit | int64 -}}
{{- end -}}
{{- else -}}
{{- int64 . -}}
{{- end -}}
{{- end -}}

{{/* Refuses what is no network: (list name text address), address telling whether an address alone will do. */}}
{{- define "manager.network" -}}
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
{{- define "manager.once" -}}
{{- $given := concat (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "app.kubernetes.io/part-of" "helm.sh/chart") (keys (index . 2)) -}}
{{- $name := index . 0 -}}
{{- range $label, $_ := index . 1 -}}
{{- if has $label $given -}}
{{- fail (printf "%s: the label %s is set already, by the chart itself or by commonLabels: leave it out" $name $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}

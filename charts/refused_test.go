package charts

import (
	"maps"
	"strings"
	"testing"
)

// What is well formed and cannot work is refused before anything is made, and what is refused names the value.
func TestWhatCannotWorkIsRefused(t *testing.T) {
	for chart, texts := range map[string]map[string]string{
		"cetrus": {
			"metering: {autoscaling: {enabled: true, minReplicas: 4, maxReplicas: 3}}":    "metering.autoscaling.maxReplicas: 3",
			"backup: {schedule: every day}":                                               `backup.schedule: "every day"`,
			"backup: {schedule: '23 1 * *'}":                                              "backup.schedule",
			"backup: {schedule: '60 1 * * *'}":                                            "backup.schedule",
			"backup: {schedule: '23 24 * * *'}":                                           "backup.schedule",
			"backup: {schedule: '23 1 0 * *'}":                                            "backup.schedule",
			"backup: {schedule: '23 1 * * 7'}":                                            "backup.schedule",
			"backup: {schedule: 'TZ=UTC 23 1 * * *'}":                                     "backup.schedule",
			"backup: {schedule: '@nightly'}":                                              "backup.schedule",
			"tls: {renewalSchedule: ''}":                                                  "tls.renewalSchedule",
			"ingress: {enabled: true, host: 'https://a.example'}":                         `ingress.host: "https://a.example"`,
			"ingress: {enabled: true, host: 'a.example:443'}":                             "ingress.host",
			"ingress: {enabled: true, host: A.example}":                                   "ingress.host",
			"ingress: {enabled: true, host: 10.0.0.7}":                                    "ingress.host",
			"gatewayAPI: {hostnames: ['https://a.example']}":                              "gatewayAPI.hostnames",
			"trustedProxies: [banana]":                                                    `trustedProxies: "banana"`,
			"trustedProxies: [10.0.0.0/33]":                                               "trustedProxies",
			"trustedProxies: [10.0.0/8]":                                                  "trustedProxies",
			"trustedProxies: [10.0.0.256]":                                                "trustedProxies",
			"trustedProxies: ['fd00:1:2/64']":                                             "trustedProxies",
			"gateway: {resources: {limits: {memory: lots}}}":                              "/gateway/resources/limits/memory",
			"backup: {resources: {requests: {cpu: 1.5.0}}}":                               "/backup/resources/requests/cpu",
			"nats: {storage: {size: 20GB}}":                                               "/nats/storage/size",
			"identity: {extraEnv: [{value: a}]}":                                          "/identity/extraEnv/0",
			"identity: {extraEnv: [{name: A, value: 1}]}":                                 "/identity/extraEnv/0/value",
			"commonLabels: {app.kubernetes.io/name: mine}":                                "commonLabels: the label app.kubernetes.io/name",
			"{commonLabels: {release: a}, metrics: {podMonitor: {labels: {release: a}}}}": "metrics.podMonitor.labels: the label release",
			"metrics: {dashboards: {labels: {helm.sh/chart: mine}}}":                      "metrics.dashboards.labels: the label helm.sh/chart",
			"networkPolicy: {entryPeers: [{ipBlock: {cidr: 10.0.0.0}}]}":                  "/networkPolicy/entryPeers/0/ipBlock/cidr",
		},
		"cetrus-manager": {
			"proxy: {urlSecret: proxy}": "proxy.port:",
			"platform: {url: 'nats://cetrus.example.com:4222', api: 'https://cetrus.example.com'}": "/platform/url",
			"storage: {size: 10Gi}":                                                       "storage.maxBufferBytes: 16000000000",
			"storage: {size: 16G}":                                                        "storage.maxBufferBytes",
			"storage: {size: 15000000000}":                                                "storage.maxBufferBytes",
			"storage: {size: 1.5Gi, maxBufferBytes: 1610612736}":                          "storage.maxBufferBytes",
			"agents: {serviceType: NodePort, nodePort: 99}":                               "agents.nodePort: 99",
			"agents: {serviceType: ClusterIP, nodePort: 30041}":                           "agents.nodePort",
			"agents: {loadBalancerSourceRanges: [10.0.0.0]}":                              `agents.loadBalancerSourceRanges: "10.0.0.0"`,
			"agents: {serviceType: NodePort, loadBalancerSourceRanges: [10.0.0.0/8]}":     "agents.loadBalancerSourceRanges",
			"commonLabels: {app.kubernetes.io/part-of: mine}":                             "commonLabels: the label app.kubernetes.io/part-of",
			"{commonLabels: {release: a}, metrics: {podMonitor: {labels: {release: a}}}}": "metrics.podMonitor.labels: the label release",
			"resources: {limits: {memory: 2gb}}":                                          "/resources/limits/memory",
			"extraEnv: [{valueFrom: {}}]":                                                 "/extraEnv/0",
		},
	} {
		for text, says := range texts {
			if err := rendered(t, chart, text); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s with %s, which is not refused for %s: %v", chart, text, says, err)
			}
		}
	}
}

// What can work is not refused with it.
func TestWhatCanWorkIsTaken(t *testing.T) {
	for chart, texts := range map[string][]string{
		"cetrus": {
			"metering: {autoscaling: {enabled: true, minReplicas: 3, maxReplicas: 3}}",
			"backup: {schedule: '*/15 0-6,20 1,15 JAN-mar Mon-Fri'}",
			"backup: {schedule: '@daily'}",
			"backup: {schedule: '@every 6h30m'}",
			"ingress: {enabled: true, host: cetrus-1.a.example}",
			"gatewayAPI: {hostnames: ['*.a.example', localhost]}",
			"trustedProxies: [10.42.0.0/16, 192.0.2.7, '::1', 'fd00:42::/56', '2001:db8:1:2:3:4:5:6', '::/0', 0.0.0.0/0]",
			"gateway: {resources: {requests: {cpu: 0.5, memory: 1e9}, limits: {memory: 1.5Gi, cpu: '2'}}}",
			"identity: {extraEnv: [{name: A, value: ''}, {name: B, valueFrom: {secretKeyRef: {name: s, key: k}}}]}",
			"{commonLabels: {team: a}, metrics: {podMonitor: {enabled: true, labels: {release: a}}}}",
			"networkPolicy: {entryPeers: [{ipBlock: {cidr: 'fd00::/8', except: ['fd00::/64']}}]}",
		},
		"cetrus-manager": {
			"{proxy: {urlSecret: proxy}, networkPolicy: {enabled: false}}",
			"storage: {size: 17G}",
			"storage: {size: 20000000000}",
			"storage: {size: 1Pi}",
			"agents: {serviceType: NodePort, nodePort: 30041}",
			"agents: {nodePort: 30041, loadBalancerSourceRanges: [10.0.0.0/8, 'fd00::/8']}",
		},
	} {
		for _, text := range texts {
			if err := rendered(t, chart, text); err != nil {
				t.Errorf("%s with %s: %v", chart, text, err)
			}
		}
	}
}

// rendered is why a chart refuses values beside those that it cannot do without.
func rendered(t *testing.T, chart, text string) error {
	t.Helper()
	set := deepCopy(t, both[chart])
	maps.Copy(set, values(t, text))
	_, err := Render(t.Context(), Release{Chart: chart, Values: set})
	return err
}

package charts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// arrows are who may speak to whom, on which port: those of ARCHITECTURE.md and no others. "outside" is
// whatever is no pod of the release.
var arrows = []string{
	"gateway → identity:8081", "gateway → metering:8081",
	"gateway → nats:4222", "identity → nats:4222", "metering → nats:4222", "keyring → nats:4222", "archive → nats:4222", "nats → nats:6222",
	"identity → postgres:5432", "metering → postgres:5432", "keyring → postgres:5432", "migrate → postgres:5432",
	"test → gateway:8080", "backup → nats:4222", "backup → postgres:5432", "restore → nats:4222", "restore → postgres:5432",
	"verify → nats:4222", "verify → postgres:5432", "verify → outside:9000",
	"outside → gateway:8080", "outside → nats:8443",
	"outside → gateway:9464", "outside → identity:9464", "outside → metering:9464", "outside → keyring:9464", "outside → archive:9464", "outside → nats:9464",
	"secrets → outside:443", "secrets → outside:6443", "identity → outside:443", "archive → outside:9000", "metering → outside:9000", "restore → outside:9000",
	"archive → outside:9001", "backup → outside:9001", "restore → outside:9001", "secrets → outside:9001",
}

// Nobody can speak to anybody but as the architecture has it: every pair of pods is asked on every port.
func TestNetworkPolicies(t *testing.T) {
	made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, "{archive: {url: 's3://bucket/prefix?endpoint=https://s3.example.com:9000', secret: storage}, backup: {url: 's3://bucket/backups?endpoint=https://s3.example.com:9001'}, restore: {enabled: true}}")})
	if err != nil {
		t.Fatal(err)
	}
	policies := policiesOf(t, made)
	parts := map[string]labels.Set{"outside": nil}
	for name, pod := range pods(t, made) {
		part := pod.Labels[component]
		if part == "" {
			t.Fatalf("%s is of no part", name)
		}
		parts[part] = pod.Labels
	}
	var got []string
	for from, sender := range parts {
		for to, receiver := range parts {
			if from == "outside" && to == "outside" {
				continue
			}
			for _, port := range []int32{53, 443, 4222, 5432, 6222, 6443, 8080, 8081, 8090, 8443, 9000, 9001, 9464, 10250} {
				if port == 53 && to == "outside" {
					continue // names may be asked for by all
				}
				if allows(t, policies, sender, receiver, networkingv1.PolicyTypeEgress, port) && allows(t, policies, receiver, sender, networkingv1.PolicyTypeIngress, port) {
					got = append(got, fmt.Sprintf("%s → %s:%d", from, to, port))
				}
			}
		}
	}
	for _, arrow := range got {
		if !slices.Contains(arrows, arrow) {
			t.Errorf("%s is open", arrow)
		}
	}
	for _, arrow := range arrows {
		if !slices.Contains(got, arrow) {
			t.Errorf("%s is shut", arrow)
		}
	}
}

// A Manager speaks to the platform or its proxy, on the ports that their addresses have, and to nobody else.
func TestNetworkPolicyOfAManager(t *testing.T) {
	for text, ports := range map[string][]int32{
		"{}": {443},
		"platform: {url: 'wss://cetrus.example.com:8443/nats', api: 'https://cetrus.example.com'}": {443, 8443},
		"platform: {url: 'tls://cetrus.example.com', api: 'https://cetrus.example.com:8080'}":      {4222, 8080},
		"platform: {url: 'wss://gate.site.svc/nats', api: 'https://gate.site.svc', port: 8443}":    {8443},
		"proxy: {url: 'http://proxy.example.com:3128'}":                                            {3128},
		"proxy: {url: 'http://[fd00::7]:8080'}":                                                    {8080},
		"proxy: {url: 'http://proxy.example.com'}":                                                 {80},
		"proxy: {url: 'http://proxy.site.svc', port: 3128}":                                        {3128},
		"proxy: {urlSecret: proxy, port: 8080}":                                                    {8080},
	} {
		set := deepCopy(t, both["cetrus-manager"])
		maps.Copy(set, values(t, text))
		made, err := Render(t.Context(), Release{Chart: "cetrus-manager", Values: set})
		if err != nil {
			t.Fatal(err)
		}
		policies := policiesOf(t, made)
		for _, pod := range pods(t, made) {
			for _, asked := range []int32{22, 80, 443, 3128, 4222, 8080, 8443, 9464, 10041, 10042} {
				if out := allows(t, policies, pod.Labels, nil, networkingv1.PolicyTypeEgress, asked); out != slices.Contains(ports, asked) {
					t.Errorf("with %s it may go out on %d: %v", text, asked, out)
				}
				if in := allows(t, policies, pod.Labels, nil, networkingv1.PolicyTypeIngress, asked); in != (asked == 10041 || asked == 9464) {
					t.Errorf("with %s others may come in on %d: %v", text, asked, in)
				}
			}
		}
	}
}

// Whoever is reached by a URL is reached on its port, or on that of its scheme.
func TestNetworkPoliciesHaveThePortsOfURLs(t *testing.T) {
	for text, want := range map[string]string{
		"archive: {secret: s, url: 's3://bucket/prefix'}":                                                             "archive 443",
		"archive: {secret: s, url: 's3://bucket/prefix?endpoint=https://s3.example.com&region=eu'}":                   "archive 443",
		"archive: {secret: s, url: 's3://bucket/prefix?region=eu&endpoint=https://s3.example.com:9000'}":              "archive 9000",
		"archive: {secret: s, url: 's3://bucket/prefix?endpoint=http://s3.example.com/&region=eu'}":                   "archive 80",
		"archive: {secret: s, url: 's3://bucket/prefix?endpoint=http%3A%2F%2F[fd00::7]%3A9000'}":                      "archive 9000",
		"archive: {secret: s, url: 's3://bucket/prefix?endpoint=https://s3.site.svc', port: 9000}":                    "archive 9000",
		"backup: {secret: s, url: 's3://bucket/prefix?endpoint=https://s3.example.com:9001&region=eu'}":               "backups 9001",
		"nameKey: {kmsSecret: s, kms: 'https://vault.example.com/transit/cetrus'}":                                    "kms 443",
		"nameKey: {kmsSecret: s, kms: 'https://vault.example.com:8200/transit/cetrus'}":                               "kms 8200",
		"mail: {from: c@example.com, smtpURL: 'smtps://cetrus@mail.example.com', passwordSecret: s}":                  "outside 443 465",
		"mail: {from: c@example.com, smtpURL: 'smtp://mail.example.com'}":                                             "outside 443 587",
		"mail: {from: c@example.com, smtpURL: 'smtp://mail.example.com:25'}":                                          "outside 25 443",
		"tracing: {endpoint: 'http://collector'}":                                                                     "traces 4318",
		"tracing: {endpoint: 'https://collector.example.com/otlp'}":                                                   "traces 443",
		"tracing: {endpoint: 'http://collector:14318'}":                                                               "traces 14318",
		"nats: {enabled: false, url: 'tls://log-0.example.com,tls://log-1.example.com:5222,tls://log-2.example.com'}": "nats 4222 5222",
	} {
		made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		name := strings.Fields(want)[0]
		got := "no policy"
		for _, policy := range policiesOf(t, made) {
			if policy.Name != "cetrus-"+name {
				continue
			}
			var ports []int
			for _, port := range policy.Spec.Egress[0].Ports {
				ports = append(ports, port.Port.IntValue())
			}
			slices.Sort(ports)
			got = name + " " + strings.Trim(fmt.Sprint(ports), "[]")
		}
		if got != want {
			t.Errorf("with %s: %s, and not %s", text, got, want)
		}
	}
}

func policiesOf(t *testing.T, made Rendered) (policies []networkingv1.NetworkPolicy) {
	t.Helper()
	for _, object := range made.Objects {
		if object.GetKind() != "NetworkPolicy" {
			continue
		}
		var policy networkingv1.NetworkPolicy
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &policy); err != nil {
			t.Fatal(err)
		}
		policies = append(policies, policy)
	}
	return policies
}

// allows tells whether a pod may speak to, or hear, a peer on a port, by Kubernetes's rules: all, unless
// a policy of that direction selects it, then what any of these lets through. A pod without labels is outside.
func allows(t *testing.T, policies []networkingv1.NetworkPolicy, pod, peer labels.Set, direction networkingv1.PolicyType, port int32) bool {
	t.Helper()
	if pod == nil {
		return true
	}
	selected := false
	for _, policy := range policies {
		if !selects(t, &policy.Spec.PodSelector, pod) || !slices.Contains(policy.Spec.PolicyTypes, direction) {
			continue
		}
		selected = true
		if direction == networkingv1.PolicyTypeEgress {
			for _, rule := range policy.Spec.Egress {
				if covers(rule.Ports, port) && matches(t, rule.To, peer) {
					return true
				}
			}
			continue
		}
		for _, rule := range policy.Spec.Ingress {
			if covers(rule.Ports, port) && matches(t, rule.From, peer) {
				return true
			}
		}
	}
	return !selected
}

func covers(ports []networkingv1.NetworkPolicyPort, port int32) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		return p.Port != nil && p.Port.IntVal == port
	})
}

// matches tells whether a peer is among those of a rule; none are all. What a rule has by namespace or
// network is taken for outside: within the release pods are named.
func matches(t *testing.T, peers []networkingv1.NetworkPolicyPeer, peer labels.Set) bool {
	t.Helper()
	return len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.NamespaceSelector != nil || p.IPBlock != nil {
			return peer == nil
		}
		return peer != nil && selects(t, p.PodSelector, peer)
	})
}

func selects(t *testing.T, by *metav1.LabelSelector, pod labels.Set) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(by)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(pod)
}

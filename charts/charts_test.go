package charts

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/engine"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what is compared with")

// releases are those of the matrix.
func releases(t *testing.T) map[string]Release {
	t.Helper()
	all, err := Matrix()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What holds whatever the values are.
func TestEveryRelease(t *testing.T) {
	for name, release := range releases(t) {
		t.Run(name, func(t *testing.T) {
			made, err := Render(t.Context(), release)
			if err != nil {
				t.Fatal(err)
			}
			decodesStrictly(t, made)
			podsAreRestricted(t, made)
			podsTellHowTheyAre(t, made)
			whoTriesHasNoKeyOfTLS(t, made)
		})
	}
}

// whoTriesHasNoKeyOfTLS: the pod of `helm test` shows no certificate, and so sees of a Secret that has one no more than
// the authority.
func whoTriesHasNoKeyOfTLS(t *testing.T, made Rendered) {
	t.Helper()
	for name, pod := range pods(t, made) {
		for _, v := range pod.Spec.Volumes {
			if pod.Labels[component] != "test" || v.Secret == nil || v.Name != "tls" {
				continue
			}
			if len(v.Secret.Items) != 1 || v.Secret.Items[0].Key != "ca.crt" {
				t.Errorf("%s sees of the Secret %s %v", name, v.Secret.SecretName, v.Secret.Items)
			}
		}
	}
}

// decodesStrictly: every object is what its API takes, with no field that it does not know, no value
// of another type, and no two of one name.
func decodesStrictly(t *testing.T, made Rendered) {
	t.Helper()
	seen := make(map[string]bool)
	for _, object := range made.Objects {
		text, err := json.Marshal(object.Object)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := strict.Decode(text, nil, nil); err != nil {
			t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
		}
		name := object.GroupVersionKind().GroupKind().String() + " " + object.GetName()
		if seen[name] {
			t.Errorf("%s is there twice", name)
		}
		seen[name] = true
		if object.GetNamespace() != Namespace {
			t.Errorf("%s is in the namespace %q", name, object.GetNamespace())
		}
		if len(object.GetName()) > 63 {
			t.Errorf("the name %s is too long", object.GetName())
		}
		if strings.Contains(string(text), "<no value>") {
			t.Errorf("%s has a value that is none: %s", name, text)
		}
	}
	if made.Notes == "" {
		t.Error("whoever installs it is told nothing")
	}
}

// podsAreRestricted: every pod keeps to the restricted Pod Security Standard, writes nowhere but into
// its volumes, and alone the Job that makes Secrets can speak as somebody to the API server.
func podsAreRestricted(t *testing.T, made Rendered) {
	t.Helper()
	for name, pod := range pods(t, made) {
		switch s := pod.Spec.SecurityContext; {
		case s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot:
			t.Errorf("%s may run as root", name)
		case s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
			t.Errorf("%s has no seccomp profile", name)
		case s.RunAsUser == nil || *s.RunAsUser == 0:
			t.Errorf("%s runs as whoever the image says", name)
		}
		if mounted := pod.Spec.AutomountServiceAccountToken; mounted == nil || *mounted != (pod.Labels[component] == "secrets") {
			t.Errorf("%s: its token is mounted: %v", name, mounted)
		}
		if pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC {
			t.Errorf("%s shares its node's namespaces", name)
		}
		for _, v := range pod.Spec.Volumes {
			if v.ConfigMap == nil && v.EmptyDir == nil && v.Secret == nil && v.Projected == nil && v.PersistentVolumeClaim == nil {
				t.Errorf("%s has the volume %s of a kind that is not allowed", name, v.Name)
			}
		}
		for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
			switch s := c.SecurityContext; {
			case s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation:
				t.Errorf("%s/%s may gain privileges", name, c.Name)
			case s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0:
				t.Errorf("%s/%s has capabilities", name, c.Name)
			case s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem:
				t.Errorf("%s/%s may write to its image", name, c.Name)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s/%s does not say what it needs", name, c.Name)
			}
			for _, m := range c.VolumeMounts {
				if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) && m.Name != "data" {
					t.Errorf("%s/%s mounts %s, which is not there", name, c.Name, m.Name)
				}
			}
			for _, p := range c.Ports {
				if p.HostPort != 0 {
					t.Errorf("%s/%s has the port %d of its node", name, c.Name, p.HostPort)
				}
			}
		}
	}
}

// podsTellHowTheyAre: whatever goes on running says how it is doing, and is spread over nodes.
func podsTellHowTheyAre(t *testing.T, made Rendered) {
	t.Helper()
	for name, pod := range pods(t, made) {
		if pod.Spec.RestartPolicy != "" {
			continue // it ends by itself
		}
		c := pod.Spec.Containers[0]
		if c.StartupProbe == nil || c.ReadinessProbe == nil || c.LivenessProbe == nil {
			t.Errorf("%s lacks a probe", name)
		}
		if grace := pod.Spec.TerminationGracePeriodSeconds; grace == nil || *grace < 45 {
			t.Errorf("%s has no time to stop", name)
		}
		if named := pod.Labels["app.kubernetes.io/name"] == "cetrus" && pod.Labels[component] != "postgres"; named && len(pod.Spec.TopologySpreadConstraints) != 2 {
			t.Errorf("%s is not spread", name)
		}
	}
}

// The tables are brought up to date before anything of a new version starts, if there is a database.
func TestMigrationsComeFirst(t *testing.T) {
	there := func(kind, group, version string) engine.ClientProvider {
		object := unstructured.Unstructured{}
		object.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: version, Kind: kind})
		object.SetName("cetrus-postgres")
		object.SetNamespace(Namespace)
		return cluster{fake.NewSimpleDynamicClient(runtime.NewScheme(), &object)}
	}
	nothing := cluster{fake.NewSimpleDynamicClient(runtime.NewScheme())}
	for name, test := range map[string]struct {
		values string
		in     engine.ClientProvider
		before bool
	}{
		"a new evaluation":              {"{}", nothing, false},
		"rendered without a cluster":    {"{}", nil, false},
		"an evaluation that is there":   {"{}", there("StatefulSet", "apps", "v1"), true},
		"a new CloudNativePG":           {"postgresql: {mode: cloudnativepg}", nothing, false},
		"a CloudNativePG that is there": {"postgresql: {mode: cloudnativepg}", there("Cluster", "postgresql.cnpg.io", "v1"), true},
		"a database of one's own":       {"postgresql: {mode: external, external: {secret: s}}", nothing, true},
	} {
		t.Run(name, func(t *testing.T) {
			made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, test.values), Cluster: test.in})
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, object := range made.Objects {
				if object.GetKind() != "Job" || object.GetLabels()[component] != "migrate" {
					continue
				}
				found++
				if hook := object.GetAnnotations()["helm.sh/hook"]; (hook == "pre-install,pre-upgrade") != test.before {
					t.Errorf("the hook of %s is %q", object.GetName(), hook)
				}
			}
			if found != 1 {
				t.Errorf("there are %d Jobs", found)
			}
		})
	}
}

// Nobody is believed who is not named, and whoever puts a proxy before the gateway is told to name it.
func TestProxiesAreNamed(t *testing.T) {
	for text, test := range map[string]struct {
		believed string
		told     bool
	}{
		"{}":                                   {"", false},
		"gateway: {serviceType: LoadBalancer}": {"", false},
		"ingress: {enabled: true, host: cetrus.example.com}":                                                   {"", true},
		"gatewayAPI: {enabled: true, parentRefs: [{name: public}]}":                                            {"", true},
		"{ingress: {enabled: true, host: cetrus.example.com}, trustedProxies: [10.42.0.0/16, 'fd00:42::/56']}": {"10.42.0.0/16,fd00:42::/56", false},
	} {
		made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		if told := strings.Contains(made.Notes, "trustedProxies"); told != test.told {
			t.Errorf("with %s it is told: %v", text, told)
		}
		for _, name := range []string{"Deployment cetrus-identity", "Deployment cetrus-metering"} {
			if !slices.Contains(pods(t, made)[name].Spec.Containers[0].Env, corev1.EnvVar{Name: "CETRUS_TRUSTED_PROXIES", Value: test.believed}) {
				t.Errorf("with %s %s does not believe %q alone", text, name, test.believed)
			}
		}
	}
}

// While a backup is put back nothing runs but the log, the database, and who puts it back, with the keys of the backup.
func TestNothingElseRunsWhileABackupIsPutBack(t *testing.T) {
	const text = "{backup: {url: 's3://bucket/backups', secret: storage}, archive: {url: 's3://bucket/archive', secret: storage}, metering: {autoscaling: {enabled: true}}, restore: {enabled: true, backup: 20260102T030405.678Z}}"
	made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, text)})
	if err != nil {
		t.Fatal(err)
	}
	services := 0
	for _, object := range made.Objects {
		switch object.GetKind() {
		case "Deployment":
			services++
			if replicas, found, err := unstructured.NestedInt64(object.Object, "spec", "replicas"); err != nil || !found || replicas != 0 {
				t.Errorf("%s has %d replicas (%t, %v)", object.GetName(), replicas, found, err)
			}
		case "CronJob":
			if suspended, _, _ := unstructured.NestedBool(object.Object, "spec", "suspend"); !suspended && object.GetLabels()[component] == "backup" {
				t.Errorf("%s backs up what is put back", object.GetName())
			}
		}
	}
	if services != 5 {
		t.Errorf("there are %d Deployments", services)
	}
	for condition, well := range map[string]bool{"": false, "Failed": false, "Complete": true} {
		job := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "batch/v1", "kind": "Job", "metadata": map[string]any{"namespace": Namespace, "name": "cetrus-restore"}}}
		if condition != "" {
			job.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": condition, "status": "True"}}}
		}
		in := cluster{fake.NewSimpleDynamicClient(runtime.NewScheme(), job)}
		_, err := Render(t.Context(), Release{Chart: "cetrus", Upgrade: true, Values: values(t, "backup: {url: 's3://bucket/backups', secret: storage}"), Cluster: in})
		if well != (err == nil) || err != nil && !strings.Contains(err.Error(), "restore.enabled: the Job cetrus-restore") {
			t.Errorf("services begin beside a restoration that is %q: %v", condition, err)
		}
	}
	for pod, argument := range map[string]string{"Job cetrus-restore": "--backup=20260102T030405.678Z", "Job cetrus-secrets": "--from-backups=s3://bucket/backups"} {
		spec := pods(t, made)[pod].Spec
		if len(spec.Containers) != 1 || !slices.Contains(spec.Containers[0].Args, argument) || !slices.ContainsFunc(spec.Containers[0].Env, func(v corev1.EnvVar) bool { return v.Name == "BACKUPS_AWS_SECRET_ACCESS_KEY" }) {
			t.Errorf("%s is not told which backup, or has no keys of its storage: %v", pod, spec.Containers)
		}
	}
	if made, err = Render(t.Context(), Release{Chart: "cetrus", Values: values(t, "backup: {url: 's3://bucket/backups', secret: storage}")}); err != nil {
		t.Fatal(err)
	}
	if _, there := pods(t, made)["Job cetrus-restore"]; there || strings.Contains(made.Text, "--from-backups") {
		t.Error("something is put back that nobody asked for")
	}
}

// Authorities of one's own reach every pod that asks others than Cetrus: storage, mail servers, identity providers.
func TestAuthoritiesOfOnesOwnAreTrusted(t *testing.T) {
	for _, text := range []string{"", "restore: {enabled: true}, "} {
		made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, "{"+text+"trustedAuthorities: ours, backup: {url: 's3://bucket/backups', secret: storage}, archive: {url: 's3://bucket/archive', secret: storage}}")})
		if err != nil {
			t.Fatal(err)
		}
		asks := 0
		for name, pod := range pods(t, made) {
			container := pod.Spec.Containers[0]
			told := slices.ContainsFunc(container.Env, func(v corev1.EnvVar) bool {
				return v.Name == "SSL_CERT_FILE" && v.Value == "/etc/cetrus/authorities/ca.crt"
			})
			mounted := slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/etc/cetrus/authorities" })
			there := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.ConfigMap != nil && v.ConfigMap.Name == "ours" })
			mustAsk := slices.ContainsFunc(container.Env, func(v corev1.EnvVar) bool {
				return strings.HasSuffix(v.Name, "AWS_ACCESS_KEY_ID") || v.Name == "CETRUS_SMTP_URL"
			}) || slices.Contains([]string{"Deployment cetrus-gateway", "Deployment cetrus-identity"}, name)
			if told != mounted || told != there || mustAsk && !told {
				t.Errorf("%s: told %t, mounted %t, there %t", name, told, mounted, there)
			}
			if mustAsk {
				asks++
			}
		}
		if asks < 2 {
			t.Errorf("of pods that ask others there are %d", asks)
		}
	}
}

// A database that is not this release's own is known by its authority, in every pod that speaks to it.
func TestTheDatabaseIsKnownByItsAuthority(t *testing.T) {
	for text, want := range map[string]struct{ secret, mode string }{
		"postgresql: {mode: external, external: {secret: s}}":                                                                  {mode: "verify-full"},
		"postgresql: {mode: external, external: {secret: s, caSecret: theirs}}":                                                {secret: "theirs", mode: "verify-full"},
		"postgresql: {mode: external, sslMode: verify-ca, external: {secret: s, caSecret: theirs}}":                            {secret: "theirs", mode: "verify-ca"},
		"postgresql: {mode: cloudnativepg}":                                                                                    {secret: "cetrus-postgres-ca", mode: "verify-full"},
		"postgresql: {mode: cloudnativepg, cloudnativepg: {spec: {certificates: {serverCASecret: ours, serverTLSSecret: t}}}}": {secret: "ours", mode: "verify-full"},
	} {
		made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, "{"+text+", backup: {url: 's3://bucket/backups', secret: storage}, restore: {enabled: true}}")})
		if err != nil {
			t.Fatal(err)
		}
		speak := 0
		for name, pod := range pods(t, made) {
			container := pod.Spec.Containers[0]
			env := map[string]string{}
			for _, v := range container.Env {
				env[v.Name] = v.Value
			}
			if _, speaks := env["CETRUS_POSTGRES_URL"]; !speaks {
				continue
			}
			speak++
			file := ""
			if want.secret != "" {
				file = "/etc/cetrus/postgres/ca.crt"
			}
			mounted := slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool {
				return m.Name == "postgres-ca" && m.MountPath == "/etc/cetrus/postgres"
			})
			volume := ""
			for _, v := range pod.Spec.Volumes {
				if v.Name == "postgres-ca" {
					volume = v.Secret.SecretName
				}
			}
			if env["PGSSLROOTCERT"] != file || env["PGSSLMODE"] != want.mode || mounted != (file != "") || volume != want.secret {
				t.Errorf("%s: %s has %q, %q, mounted %t of Secret %q", text, name, env["PGSSLROOTCERT"], env["PGSSLMODE"], mounted, volume)
			}
		}
		if speak < 6 {
			t.Errorf("%s: %d pods speak to the database", text, speak)
		}
	}
}

// A drain never takes a server of the event log while another is not level, and does take a service's pod that is not ready.
func TestADrainSparesTheLog(t *testing.T) {
	made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, "gateway: {replicas: 2}")})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, object := range made.Objects {
		if object.GetKind() == "PodDisruptionBudget" {
			found[object.GetName()], _, _ = unstructured.NestedString(object.Object, "spec", "unhealthyPodEvictionPolicy")
		}
	}
	if found["cetrus-nats"] != "IfHealthyBudget" || found["cetrus-gateway"] != "AlwaysAllow" {
		t.Errorf("%v", found)
	}
}

// Every pod has of the keys of archive and backups those that it needs, each from the Secret that is named for it.
func TestEachStorageHasItsKeys(t *testing.T) {
	const both = "archive: {url: 's3://bucket/archive', secret: archivist}, backup: {url: 's3://other/backups', secret: keeper}, restore: {enabled: true}"
	for text, want := range map[string]map[string]string{
		"{" + both + "}": {
			"Deployment cetrus-archive": "archivist keeper", "Deployment cetrus-metering": "archivist ", "CronJob cetrus-backup": " keeper",
			"Job cetrus-restore": "archivist keeper", "Job cetrus-secrets": " keeper", "Deployment cetrus-identity": " ",
		},
		"{archive: {url: 's3://bucket/archive', secret: archivist}, backup: {url: 's3://bucket/backups'}}": {
			"Deployment cetrus-archive": "archivist archivist", "CronJob cetrus-backup": " archivist", "Job cetrus-secrets": " ",
		},
		"{backup: {url: 's3://other/backups', secret: keeper}}": {
			"Deployment cetrus-archive": " keeper", "Deployment cetrus-metering": " ", "CronJob cetrus-backup": " keeper",
		},
		"{archive: {url: 's3://bucket/archive', secret: archivist}}": {
			"Deployment cetrus-archive": "archivist ", "Deployment cetrus-metering": "archivist ",
		},
	} {
		made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		for name, keys := range want {
			pod, there := pods(t, made)[name]
			if !there {
				t.Errorf("with %s there is no %s", text, name)
				continue
			}
			secrets := map[string]string{}
			for _, variable := range pod.Spec.Containers[0].Env {
				if _, again := secrets[variable.Name]; again {
					t.Errorf("with %s %s has %s twice", text, name, variable.Name)
				}
				secrets[variable.Name] = ""
				if variable.ValueFrom != nil && variable.ValueFrom.SecretKeyRef != nil {
					secrets[variable.Name] = variable.ValueFrom.SecretKeyRef.Name
				}
			}
			for _, key := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
				if got := secrets[key] + " " + secrets["BACKUPS_"+key]; got != keys {
					t.Errorf("with %s %s has %s of %q, not of %q", text, name, key, got, keys)
				}
			}
		}
	}
}

// Managers come in as ever where the event log is elsewhere, if it is told which way; if not, nothing claims that they can.
func TestManagersAreLedToALogElsewhere(t *testing.T) {
	const log = "nats: {enabled: false, url: 'tls://log.example.com:4222', websocketService: outer-log}"
	for entry, leads := range map[string]string{
		"ingress: {enabled: true, host: cetrus.example.com}":                   "backend: {service: {name: outer-log, port: {name: websocket}}}",
		"gatewayAPI: {enabled: true, parentRefs: [{name: public}]}":            "backendRefs: [{name: outer-log, port: 8443}]",
		"gatewayAPI: {enabled: true, parentRefs: [{name: p}], caConfigMap: a}": "targetRefs: [{group: \"\", kind: Service, name: outer-log}]",
	} {
		for _, led := range []bool{true, false} {
			set := values(t, entry+"\n"+log)
			if !led {
				delete(set["nats"].(map[string]any), "websocketService")
			}
			made, err := Render(t.Context(), Release{Chart: "cetrus", Values: set})
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(made.Text, leads) != led || strings.Contains(made.Text, "/nats") != led {
				t.Errorf("with %s, and a Service of the log (%t), Managers are led:\n%s", entry, led, made.Text)
			}
		}
	}
}

// Values that no chart knows are refused wherever they stand, and those that cannot be meant are too.
func TestUnknownValuesAreRefused(t *testing.T) {
	for chart, least := range both {
		for _, path := range tables(t, chart) {
			wrong := deepCopy(t, least)
			at := wrong
			for _, key := range path {
				next, _ := at[key].(map[string]any)
				if next == nil {
					next = map[string]any{}
				}
				at[key] = next
				at = next
			}
			at["typo"] = true
			if _, err := Render(t.Context(), Release{Chart: chart, Values: wrong}); err == nil || !strings.Contains(err.Error(), "typo") {
				t.Errorf("%s takes %s.typo: %v", chart, strings.Join(path, "."), err)
			}
		}
	}
	for text, says := range map[string]string{
		"nats: {replicas: 2}":                                                "nats/replicas",
		"nats: {enabled: false}":                                             "nats.url",
		"nats: {url: 'tls://a:1'}":                                           "nats.enabled",
		"nats: {websocketService: log}":                                      "nats.websocketService",
		"postgresql: {mode: external}":                                       "postgresql.external.secret",
		"postgresql: {mode: mysql}":                                          "postgresql/mode",
		"secrets: {create: false}":                                           "tls.source",
		"mail: {smtpURL: 'smtps://mail.example.com'}":                        "mail.from",
		"mail: {smtpURL: 'http://mail.example.com'}":                         "mail/smtpURL",
		"mail: {smtpURL: 'smtps://u@mail.example.com', from: a@example.com}": "mail.passwordSecret",
		"mail: {smtpURL: 'smtps://mail.example.com', from: a@example.com, passwordSecret: s}": "mail.smtpURL",
		"postgresql: {external: {secret: s}}":                                                 "postgresql.external.secret",
		"archive: {url: 's3://b?endpont=https://s3.example.com', secret: s}":                  "archive.url",
		"backup: {url: 's3://b?endpoint=htp://s3.example.com', secret: s}":                    "backup.url",
		"networkPolicy: {entryPeers: [{ipBlock: {cidr: 1.2.3.4/33}}]}":                        "networkPolicy.entryPeers",
		"metering: {replicas: 65}":                                                            "metering/replicas",
		"nameKey: {kms: 'https://vault/transit/cetrus'}":                                      "nameKey.kmsSecret",
		"archive: {url: 's3://bucket/prefix'}":                                                "archive.secret",
		"archive: {url: 'file:///archive'}":                                                   "archive/url",
		"backup: {url: 's3://bucket/prefix'}":                                                 "backup.secret",
		"backup: {url: 'file:///backups', secret: s}":                                         "backup/url",
		"restore: {enabled: true}":                                                            "backup.url",
		"restore: {backup: latest}":                                                           "restore/backup",
		"ingress: {enabled: true}":                                                            "ingress.host",
		"gatewayAPI: {enabled: true}":                                                         "gatewayAPI.parentRefs",
		"publicURL: http://cetrus.example.com":                                                "publicURL",
		"networkPolicy: {entryPeers: [{namespace: monitoring}]}":                              "networkPolicy/entryPeers",
		"metering: {replicas: many}":                                                          "metering/replicas",
	} {
		if _, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, text)}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, lacks := range map[string]string{
		"postgresql: {mode: cloudnativepg}":                    "postgresql.cnpg.io/v1",
		"tls: {source: certManager}":                           "cert-manager.io/v1",
		"gatewayAPI: {enabled: true, parentRefs: [{name: a}]}": "gateway.networking.k8s.io/v1",
		"metrics: {rules: {enabled: true}}":                    "monitoring.coreos.com/v1",
	} {
		in := lacking{cluster{fake.NewSimpleDynamicClient(runtime.NewScheme())}, lacks}
		if _, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, text), Cluster: in, Lacks: []string{lacks}}); err == nil || !strings.Contains(err.Error(), lacks) || !strings.Contains(err.Error(), "this cluster does not have") {
			t.Errorf("%s without %s: %v", text, lacks, err)
		}
	}
	for _, missing := range []string{"platform", "enrolment"} {
		wrong := deepCopy(t, both["cetrus-manager"])
		delete(wrong, missing)
		if _, err := Render(t.Context(), Release{Chart: "cetrus-manager", Values: wrong}); err == nil || !strings.Contains(err.Error(), missing+".") {
			t.Errorf("a Manager without %s: %v", missing, err)
		}
	}
}

// What comes out is looked at whenever it changes: go test -update writes it.
func TestGolden(t *testing.T) {
	for name, release := range releases(t) {
		chart, example, _ := strings.Cut(name, ", ")
		if strings.Contains(example, " ") {
			continue
		}
		made, err := Render(t.Context(), release)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		same(t, filepath.Join("testdata", strings.Trim(chart+"."+example, ".")+".yaml"), []byte(made.Text+"---\n# Notes\n# "+strings.ReplaceAll(made.Notes, "\n", "\n# ")+"\n"))
	}
}

// same compares a file with what it should be.
func same(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	before, after := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for n := range after {
		if n >= len(before) || before[n] != after[n] {
			t.Errorf("%s differs from line %d on: go test -update writes %q", path, n+1, after[n])
			return
		}
	}
	t.Errorf("%s has more than it should: go test -update writes it", path)
}

// component is the label that tells which part a pod is.
const component = "app.kubernetes.io/component"

// pods are the pods that the objects make, by the kind and name of what makes them.
func pods(t *testing.T, made Rendered) map[string]corev1.PodTemplateSpec {
	t.Helper()
	all := make(map[string]corev1.PodTemplateSpec)
	for _, object := range made.Objects {
		path := map[string][]string{
			"Deployment": {"spec", "template"}, "StatefulSet": {"spec", "template"}, "Job": {"spec", "template"},
			"CronJob": {"spec", "jobTemplate", "spec", "template"}, "Pod": {},
		}[object.GetKind()]
		if path == nil {
			continue
		}
		found := object.Object
		if len(path) > 0 {
			var err error
			if found, _, err = unstructured.NestedMap(object.Object, path...); err != nil {
				t.Fatal(err)
			}
		}
		var pod corev1.PodTemplateSpec
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(found, &pod); err != nil {
			t.Fatal(err)
		}
		all[object.GetKind()+" "+object.GetName()] = pod
	}
	if len(all) == 0 {
		t.Fatal("there are no pods")
	}
	return all
}

func values(t *testing.T, text string) (values map[string]any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

func deepCopy(t *testing.T, values map[string]any) (copied map[string]any) {
	t.Helper()
	text, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &copied); err != nil {
		t.Fatal(err)
	}
	return copied
}

// cluster is one in which something is already.
type cluster struct{ client dynamic.Interface }

func (c cluster) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	version, err := schema.ParseGroupVersion(apiVersion)
	return c.client.Resource(version.WithResource(strings.ToLower(kind) + "s")), true, err
}

// lacking is one that does not know an API: nothing of that can be looked up.
type lacking struct {
	cluster
	api string
}

func (l lacking) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	if apiVersion == l.api {
		return nil, false, errors.New("the server could not find the requested resource")
	}
	return l.cluster.GetClientFor(apiVersion, kind)
}

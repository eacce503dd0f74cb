package charts

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// both are the charts, with what each cannot do without.
var both = map[string]map[string]any{
	"cetrus": {},
	"cetrus-manager": {
		"platform":  map[string]any{"url": "wss://cetrus.example.com/nats", "api": "https://cetrus.example.com"},
		"enrolment": map[string]any{"tokenSecret": "token"},
	},
}

// axes are what changes much of the chart cetrus.
var axes = [][]string{
	{
		"tls: {source: hook}",
		"tls: {source: certManager}",
		"tls: {source: supplied}",
		"tls: {source: certManager, certManager: {issuerRef: {name: own, kind: ClusterIssuer, group: cert-manager.io}}}",
	},
	{
		"postgresql: {mode: evaluation}",
		"postgresql: {mode: cloudnativepg}",
		"postgresql: {mode: cloudnativepg, cloudnativepg: {instances: 1, imageName: 'registry.example.com/postgresql:17'}, storage: {className: fast}}",
		"postgresql: {mode: external, external: {secret: database}}",
	},
	{
		"nats: {replicas: 3}",
		"nats: {replicas: 1}",
		"nats: {enabled: false, url: 'tls://log.example.com:4222'}",
		"nats: {enabled: false, url: 'tls://log.example.com:4222', websocketService: log}",
	},
	{
		"ingress: {enabled: true, host: cetrus.example.com}",
		"gatewayAPI: {enabled: true, parentRefs: [{name: public}], caConfigMap: ca}",
		"gatewayAPI: {enabled: true, parentRefs: [{name: public, namespace: gateways, sectionName: https}], hostnames: [cetrus.example.com]}",
		"gateway: {serviceType: LoadBalancer}",
	},
	{
		"metrics: {enabled: false}",
		"metrics: {podMonitor: {enabled: true}, rules: {enabled: true}, dashboards: {enabled: true}}",
	},
	{
		"networkPolicy: {enabled: false}",
		"nameKey: {kms: 'https://vault:8200/transit/cetrus', kmsSecret: kms}",
	},
	{
		"archive: {url: 's3://bucket/prefix', secret: storage}",
		"backup: {url: 's3://bucket/backups', secret: storage}",
		"{backup: {url: 's3://bucket/backups', secret: storage, keyFiles: false}, restore: {enabled: true}}",
		"metering: {autoscaling: {enabled: true}}",
		"deleteDataOnUninstall: true",
		"mail: {smtpURL: 'smtp://mail.example.com', from: 'Cetrus <a@example.com>'}",
	},
}

// Matrix are the releases that everything is tried with, by names that tell of their values: none, every example, and
// pairs of what changes much with everything else that does. The working directory is that of the charts.
func Matrix() (map[string]Release, error) {
	all := make(map[string]Release)
	for chart, least := range both {
		all[chart] = Release{Chart: chart, Values: least}
		examples, err := filepath.Glob(chart + "/examples/*.yaml")
		if err == nil && len(examples) == 0 {
			err = errors.New("there are none")
		}
		if err != nil {
			return nil, fmt.Errorf("charts: examples of %s: %w", chart, err)
		}
		for _, example := range examples {
			name := strings.TrimSuffix(filepath.Base(example), ".yaml")
			all[chart+", "+name] = Release{Chart: chart, Files: []string{example}}
			all[chart+", "+name+", upgraded"] = Release{Chart: chart, Files: []string{example}, Upgrade: true}
		}
	}
	for a := range axes {
		for b := range a {
			for _, one := range axes[a] {
				for _, other := range axes[b] {
					values := map[string]any{}
					for _, text := range []string{one, other} {
						if err := yaml.UnmarshalStrict([]byte(text), &values); err != nil {
							return nil, fmt.Errorf("charts: %s: %w", text, err)
						}
					}
					all["cetrus, "+one+" and "+other] = Release{Chart: "cetrus", Values: values}
				}
			}
		}
	}
	return all, nil
}

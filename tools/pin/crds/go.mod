// The modules whose kinds the charts use where a cluster has them. Nothing here is compiled, so do not tidy it:
// `tools/bootstrap.sh cluster` copies their CustomResourceDefinitions out of the module cache into .cache/crds.
module github.com/cetrus/cetrus/tools/pin/crds

go 1.26.4

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/cloudnative-pg/cloudnative-pg v1.30.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.6.0
)

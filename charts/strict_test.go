package charts

import (
	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// strict decodes what the API server and the operators know, and nothing else.
var strict = func() runtime.Decoder {
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, certmanager.AddToScheme, monitoring.AddToScheme, gateway.Install} {
		utilruntime.Must(add(known))
	}
	// The types of CloudNativePG are not to be had without its operator: of its kind only this much is known here. The trial
	// (tools/trial) has a real API server judge it.
	known.AddKnownTypeWithName(schema.GroupVersionKind{Group: "postgresql.cnpg.io", Version: "v1", Kind: "Cluster"}, &unstructured.Unstructured{})
	return serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
}()

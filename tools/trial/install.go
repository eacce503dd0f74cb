package trial

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cetrus/cetrus/tools/cluster/parts"
	"github.com/cetrus/cetrus/tools/stack"
)

// makeNamespace makes the namespace, which refuses pods that are less than restricted.
func (t *trial) makeNamespace(ctx context.Context) error {
	_, err := t.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: namespace, Labels: map[string]string{
			"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted",
		},
	}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return stack.Wait(ctx, time.Minute, "what every namespace has", func() error {
		_, account := t.kube.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		_, authority := t.kube.CoreV1().ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return errors.Join(account, authority)
	})
}

// wayIn are the values that every installation here has: the way in, and the image of a database.
func wayIn() []string {
	return []string{
		"postgresql.evaluation.image=" + parts.Postgres,
		"publicURL=https://" + host, "ingress.enabled=true", "ingress.host=" + host, "ingress.tlsSecret=" + ingressSecret,
	}
}

// install installs the platform as a customer does first: with the defaults, the way in, and the image of a
// database that this cluster has.
func install(ctx context.Context, t *trial) error {
	if err := t.makeNamespace(ctx); err != nil {
		return err
	}
	var err error
	if t.trusted, err = t.certify(ctx); err != nil {
		return err
	}
	if t.wasThere, err = t.inventory(ctx); err != nil {
		return err
	}
	t.platform = &release{t: t, name: "cetrus", chart: filepath.Join(t.old.charts, "cetrus"), values: wayIn()}
	t.say("installing %s: %s", t.old.number, t.old.name)
	took, err := t.platform.install(ctx)
	if err != nil {
		return err
	}
	if err := t.platform.ready(ctx); err != nil {
		return err
	}
	tested, err := t.platform.test(ctx)
	if err != nil {
		return err
	}
	t.say("ready after %.0f s, helm test passes after %.0f s", took.Seconds(), tested.Seconds())
	t.site = &site{t: t, dir: t.Dir}
	return t.line("install", took.Seconds(), "s", readyWithin.Seconds(), map[string]any{"test_s": tested.Seconds()})
}

// inventory is every object of a cluster, by its resource and name.
type inventory map[string]bool

// fleeting are resources that come and go by themselves, and tell nothing of who made them.
var fleeting = []string{"events", "leases", "endpointslices", "endpoints", "bindings", "componentstatuses"}

// inventory lists the cluster.
func (t *trial) inventory(ctx context.Context) (inventory, error) {
	lists, err := t.kube.Discovery().ServerPreferredResources()
	if err != nil {
		return nil, fmt.Errorf("listing the cluster: %w", err)
	}
	all := inventory{}
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, resource := range list.APIResources {
			if slices.Contains(fleeting, resource.Name) || !slices.Contains(resource.Verbs, "list") || strings.Contains(resource.Name, "/") {
				continue
			}
			found, err := t.objects.Resource(group.WithResource(resource.Name)).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, fmt.Errorf("listing %s: %w", resource.Name, err)
			}
			for _, object := range found.Items {
				all[strings.TrimPrefix(resource.Name+" "+object.GetNamespace()+"/"+object.GetName(), " ")] = true
			}
		}
	}
	return all, nil
}

// since is what is there now and was not before, but for what passes.
func (i inventory) since(before inventory, passes func(string) bool) []string {
	var more []string
	for object := range i {
		if !before[object] && !passes(object) {
			more = append(more, object)
		}
	}
	slices.Sort(more)
	return more
}

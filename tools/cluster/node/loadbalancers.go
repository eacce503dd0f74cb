package node

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// balanceLoad gives each Service of type LoadBalancer an address, as a cloud would. Packets for it come to the
// node by the machine's route, and kube-proxy does the rest.
func balanceLoad(ctx context.Context, client kubernetes.Interface, from netip.Prefix) error {
	changed := make(chan struct{}, 1)
	nudge := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	services := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "services", metav1.NamespaceAll, fields.Everything())
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: services, ObjectType: &corev1.Service{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { nudge() }, UpdateFunc: func(_, _ any) { nudge() }, DeleteFunc: func(any) { nudge() },
		},
	})
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		informer.RunWithContext(ctx)
	}()
	defer func() { <-watching }()
	given := map[string]netip.Addr{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
		if err := giveAddresses(ctx, client, store, from, given); err != nil {
			return fmt.Errorf("load balancers: %w", err)
		}
	}
}

// giveAddresses gives to each Service that has none and wants one the address that it asks for, or the lowest that is free.
func giveAddresses(ctx context.Context, client kubernetes.Interface, store cache.Store, from netip.Prefix, given map[string]netip.Addr) error {
	wanting := map[string]*corev1.Service{}
	for _, object := range store.List() {
		if service, ok := object.(*corev1.Service); ok && service.Spec.Type == corev1.ServiceTypeLoadBalancer {
			wanting[string(service.UID)] = service
		}
	}
	taken := map[netip.Addr]bool{}
	for uid, address := range given {
		if wanting[uid] == nil {
			delete(given, uid)
			continue
		}
		taken[address] = true
	}
	for uid, service := range wanting {
		if _, has := given[uid]; has {
			continue
		}
		address, err := netip.ParseAddr(service.Spec.LoadBalancerIP)
		if err != nil {
			for address = from.Addr().Next().Next(); taken[address]; { // the first is the front's
				address = address.Next()
			}
		}
		if !from.Contains(address) {
			return fmt.Errorf("all addresses of %s are taken", from)
		}
		patch := fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q,"ipMode":"VIP"}]}}}`, address)
		if _, err := client.CoreV1().Services(service.Namespace).Patch(ctx, service.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			return err
		}
		given[uid], taken[address] = address, true
	}
	return nil
}

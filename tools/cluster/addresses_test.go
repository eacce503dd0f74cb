package cluster_test

import (
	"net/netip"
	"testing"

	"github.com/cetrus/cetrus/tools/cluster"
)

// TestAddresses holds that what is in a cluster's network has a place of its own in it.
func TestAddresses(t *testing.T) {
	network := netip.MustParsePrefix("10.103.0.0/16")
	a, err := cluster.AddressesIn(network)
	if err != nil {
		t.Fatal(err)
	}
	ranges := []netip.Prefix{netip.PrefixFrom(a.Host, 24).Masked(), a.LoadBalancers, a.Services, a.Pods}
	for i, one := range ranges {
		if !network.Overlaps(one) || one.Bits() <= network.Bits() {
			t.Errorf("%s is not in %s", one, network)
		}
		for _, other := range ranges[:i] {
			if one.Overlaps(other) {
				t.Errorf("%s and %s overlap", one, other)
			}
		}
	}
	for address, in := range map[netip.Addr]netip.Prefix{a.Node: ranges[0], a.Front: a.LoadBalancers, a.API: a.Services, a.DNS: a.Services} {
		if !in.Contains(address) {
			t.Errorf("%s is not in %s", address, in)
		}
	}
	for _, wrong := range []string{"10.97.0.0/24", "10.97.1.0/16", "fd00::/16"} {
		if _, err := cluster.AddressesIn(netip.MustParsePrefix(wrong)); err == nil {
			t.Errorf("%s was taken", wrong)
		}
	}
	if _, err := cluster.AddressesIn(netip.Prefix{}); err == nil {
		t.Error("no network was taken")
	}
}

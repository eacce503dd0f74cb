package cluster

import (
	"fmt"
	"net/netip"
)

// Addresses are where things are in the network of a cluster, an IPv4 network of 16 bits. The machine
// reaches all of them: pods, Services, load balancers. Nothing in the cluster reaches further than
// the machine.
type Addresses struct {
	// Network is all of it.
	Network netip.Prefix
	// Host is the machine as the cluster sees it, Node the node as both see it.
	Host, Node netip.Addr
	// API is the cluster's own name for its API server, DNS its name server.
	API, DNS netip.Addr
	// Front is where Ingresses are reached, on ports 80 and 443.
	Front netip.Addr
	// LoadBalancers, Services and Pods are what addresses of each are taken from; Neighbours those of Neighbour.
	LoadBalancers, Services, Pods, Neighbours netip.Prefix
}

// AddressesIn divides a network.
func AddressesIn(network netip.Prefix) (Addresses, error) {
	if !network.IsValid() || !network.Addr().Is4() || network.Bits() != 16 || network != network.Masked() {
		return Addresses{}, fmt.Errorf("a cluster takes an IPv4 network of 16 bits, as 10.97.0.0/16, not %q", network)
	}
	b := network.Addr().As4()
	at := func(third, fourth byte) netip.Addr { return netip.AddrFrom4([4]byte{b[0], b[1], third, fourth}) }
	return Addresses{
		Network: network,
		Host:    at(0, 1), Node: at(0, 2),
		LoadBalancers: netip.PrefixFrom(at(1, 0), 24), Front: at(1, 1),
		Neighbours: netip.PrefixFrom(at(2, 0), 24),
		Services:   netip.PrefixFrom(at(64, 0), 18), API: at(64, 1), DNS: at(64, 10),
		Pods: netip.PrefixFrom(at(128, 0), 17),
	}, nil
}

// Interface is the machine's end of the cable.
func (a Addresses) Interface() string {
	b := a.Network.Addr().As4()
	return fmt.Sprintf("cetrus%d-%d", b[0], b[1])
}

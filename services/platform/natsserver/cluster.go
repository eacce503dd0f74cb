package natsserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/cetrus/cetrus/services/platform/durable"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
)

// ClusterConfig is a server's place among those that it replicates with.
type ClusterConfig struct {
	// Name of the cluster, the same at all of its servers, without spaces.
	Name string
	// Listen is the address for the other servers.
	Listen string
	// Routes are the addresses, host:port, of all servers of the cluster; its own may be among
	// them. How many they are says how many are more than half.
	Routes []string
	// Password lets servers into the cluster; the same at all of them. Whoever is in reads and
	// writes everything.
	Password string
}

// clusterUser is the name that goes with the password.
const clusterUser = "cluster"

func (c *ClusterConfig) validate(whole Config) error {
	if c.Name == "" || strings.ContainsAny(c.Name, " \t") {
		return fmt.Errorf("natsserver: the cluster's name %q must be one word, the same at all of its servers", c.Name)
	}
	if whole.Name == "" || strings.ContainsAny(whole.Name, " \t") {
		return fmt.Errorf("natsserver: the server's name %q must be one word, that no other server of the cluster has and that it keeps for as long as its files", whole.Name)
	}
	if len(c.Routes) == 0 {
		return errors.New("natsserver: a cluster needs the routes to its servers: host:port of each")
	}
	if err := CheckClusterAddress(c.Listen, whole.TLS != nil); err != nil {
		return fmt.Errorf("natsserver: Cluster.Listen %q %w", c.Listen, err)
	}
	if err := CheckRoutes(c.Routes); err != nil {
		return fmt.Errorf("natsserver: %w", err)
	}
	if c.Password == "" && !whole.open {
		return errors.New("natsserver: a cluster without a password would let everybody in who reaches it, and so read and write everything")
	}
	return nil
}

// CheckClusterAddress tells what is wrong with an address to listen on for the other servers of a cluster.
func CheckClusterAddress(address string, encrypted bool) error {
	if err := CheckAddress(address, encrypted); err != nil {
		return err
	}
	if _, port, _ := net.SplitHostPort(address); port == "0" {
		return errors.New("takes any port: the other servers must know it")
	}
	return nil
}

// CheckRoutes tells what is wrong with the addresses of a cluster's servers.
func CheckRoutes(routes []string) error {
	for _, address := range routes {
		host, port, err := net.SplitHostPort(address)
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || host == "" || n == 0 {
			return fmt.Errorf("the route %q is not host:port, for example nats-0.nats:6222", address)
		}
	}
	return nil
}

func (c *ClusterConfig) set(opts *server.Options, tls *tlsfiles.Files) error {
	host, port, err := listenOn(c.Listen)
	if err != nil {
		return err
	}
	opts.Cluster = server.ClusterOpts{
		Name: c.Name, Host: host, Port: port,
		// Clients find the servers by what they were told: addresses within the cluster lead
		// nowhere from outside.
		NoAdvertise: true,
	}
	if tls != nil {
		opts.Cluster.TLSConfig = tls.Peer()
	}
	var user *url.Userinfo
	if c.Password != "" {
		opts.Cluster.Username, opts.Cluster.Password = clusterUser, c.Password
		user = url.UserPassword(clusterUser, c.Password)
	}
	for _, address := range c.Routes {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", User: user, Host: address})
	}
	return nil
}

// memberFile tells in a store directory as which server of which cluster it was used.
const memberFile = "cluster.json"

// member is what stands in it.
type member struct {
	Cluster string `json:"cluster"`
	Server  string `json:"server"`
}

// claimStore refuses files that a server of the configuration would destroy or misread. A
// clustered server deletes streams that its cluster does not know, as those of one that was
// alone; and by its name the others know what it has told them that it holds.
func claimStore(config Config) error {
	path := filepath.Join(config.StoreDir, memberFile)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("natsserver: %w", err)
	}
	if err == nil {
		var was member
		if err := json.Unmarshal(text, &was); err != nil {
			return fmt.Errorf("natsserver: %s is damaged; it names the server and the cluster whose files are beside it: %w", path, err)
		}
		switch {
		case config.Cluster == nil:
			return fmt.Errorf("natsserver: the files in %s are of server %s of cluster %s: start it as that one, or take an empty folder and restore a backup there", config.StoreDir, was.Server, was.Cluster)
		case was != member{config.Cluster.Name, config.Name}:
			return fmt.Errorf("natsserver: the files in %s are of server %s of cluster %s, and this is server %s of cluster %s: start it as that one, or take an empty folder, which the other servers fill",
				config.StoreDir, was.Server, was.Cluster, config.Name, config.Cluster.Name)
		}
		return nil
	}
	if config.Cluster == nil {
		return nil
	}
	if streams, _ := filepath.Glob(filepath.Join(config.StoreDir, server.JetStreamStoreDir, "*", "streams", "*")); len(streams) > 0 {
		return fmt.Errorf("natsserver: the files in %s are of a server that ran alone, and in a cluster it would delete them: take an empty folder, and restore a backup of these into the cluster", config.StoreDir)
	}
	text, err = json.Marshal(member{config.Cluster.Name, config.Name})
	if err != nil {
		return err
	}
	return durable.Replace(path, append(text, '\n'))
}

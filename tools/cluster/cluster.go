package cluster

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cetrus/cetrus/tools/cluster/parts"
)

// Config says where a cluster keeps what it keeps, and what it starts with.
type Config struct {
	// Dir takes everything. It is made, and removed by Stop; what a former cluster left in it is
	// removed by Start. Its filesystem has to be one that overlayfs can write to.
	Dir string
	// Bin is where `tools/bootstrap.sh cluster` and tools/build.sh have put programs.
	Bin string
	// Network is a private network of 16 bits; default: the first one free of 10.97.0.0/16 to
	// 10.126.0.0/16.
	Network netip.Prefix
	// Parts are names of package parts: images that are made for it, and that pods can use from the start.
	Parts []string
	// Images are image archives (OCI layouts in a tar, or what `docker save` writes) that pods can use,
	// too.
	Images []string
	// Progress takes words for people.
	Progress io.Writer
}

// Cluster is one that runs.
type Cluster struct {
	// Addresses are where things are.
	Addresses Addresses
	// Kubeconfig is the file by which its administrator calls it.
	Kubeconfig string
	// Logs is the folder of what each part of it logs.
	Logs string

	spec     Spec
	bin      string
	lock     *os.File
	node     *exec.Cmd
	lifeline *os.File
	ended    chan struct{}
	mu       sync.Mutex
	err      error
	// neighbours is how many there have been.
	neighbours int
}

// Start starts a cluster, and waits until its API answers, its node is ready and names are resolved. A cluster that
// did not come up is stopped, its logs are kept and named in the error.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	c, err := start(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("starting a cluster: %w", err)
	}
	return c, nil
}

func start(ctx context.Context, config Config) (_ *Cluster, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a node is made of namespaces, mounts and cgroups, which takes root: repeat as root, or with sudo")
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, err
	}
	bin, err := filepath.Abs(config.Bin)
	if err != nil {
		return nil, err
	}
	lock, err := occupy(ctx, dir)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(dir))
	c := &Cluster{
		Kubeconfig: filepath.Join(dir, "kubeconfig"), Logs: filepath.Join(dir, "log"), bin: bin, lock: lock, ended: make(chan struct{}),
		spec: Spec{Dir: dir, Bin: bin, CgroupName: "cetrus-cluster-" + hex.EncodeToString(sum[:4])},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := RemoveCgroups(c.spec.CgroupName); err != nil {
		return nil, err
	}
	if err := emptied(dir); err != nil {
		return nil, err
	}
	network, err := freeNetwork(config.Network)
	if err != nil {
		return nil, err
	}
	if c.Addresses, err = AddressesIn(network); err != nil {
		return nil, err
	}
	c.spec.Addresses = c.Addresses
	if err := credentials(dir, c.Addresses); err != nil {
		return nil, err
	}
	if c.spec.Images, err = c.takeImages(ctx, config.Parts, config.Images); err != nil {
		return nil, err
	}
	if err := c.spec.write(); err != nil {
		return nil, err
	}
	if err := c.launch(ctx, config.Progress); err != nil {
		err = errors.Join(err, c.end())
		if ctx.Err() != nil { // nobody wants to know why it did not come up
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return nil, err
	}
	return c, nil
}

// occupy makes a folder and holds it, so that one cluster runs there. Process 1 of the node holds it
// too: where it is still tearing down what somebody killed had started, this waits.
func occupy(ctx context.Context, dir string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var held *os.File
	err := until(ctx, func() (bool, error) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return false, err
		}
		folder, err := os.Open(dir)
		if err != nil {
			return false, err
		}
		err = syscall.Flock(int(folder.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("a cluster runs in %s already: stop it first, or give another folder", dir)
		}
		if err == nil {
			held = folder
			// Whoever held it before may have removed it.
			own, ownErr := folder.Stat()
			named, namedErr := os.Stat(dir)
			if ownErr == nil && namedErr == nil && os.SameFile(own, named) {
				return true, nil
			}
		}
		return false, errors.Join(err, folder.Close())
	})
	return held, err
}

// emptied leaves a folder with nothing in it but folders that are filled from outside.
func emptied(dir string) error {
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range left {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	for _, folder := range []string{"log", "images"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// takeImages makes the images that every cluster has and those wanted, and links the others into the folder, for the node to see them.
func (c *Cluster) takeImages(ctx context.Context, wanted, files []string) ([]string, error) {
	wanted = append([]string{parts.Guest, parts.CoreDNS, parts.Front}, wanted...)
	own, err := parts.Build(ctx, c.bin, filepath.Join(c.spec.Dir, "images"), wanted...)
	if err != nil {
		return nil, err
	}
	var taken []string
	for _, file := range own {
		taken = append(taken, filepath.Join("images", filepath.Base(file)))
	}
	for i, file := range files {
		name := filepath.Join("images", strconv.Itoa(i)+"-"+filepath.Base(file))
		from, err := filepath.Abs(file)
		if err != nil {
			return nil, err
		}
		to := filepath.Join(c.spec.Dir, name)
		if os.Link(from, to) != nil {
			if err := copyFile(from, to); err != nil {
				return nil, fmt.Errorf("image %s: %w", file, err)
			}
		}
		taken = append(taken, name)
	}
	return taken, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// launch starts the node, plugs it to the machine, and waits until it says that it is ready.
func (c *Cluster) launch(ctx context.Context, progress io.Writer) error {
	log, err := os.Create(filepath.Join(c.Logs, "node.log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	hear, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	held, lifeline, err := os.Pipe()
	if err != nil {
		return err
	}
	// Not bound to ctx: it is told to end, and then takes everything along.
	cmd := exec.Command(filepath.Join(c.bin, "cetrus-cluster"), "node", c.spec.Dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = held, tell, log
	cmd.ExtraFiles = []*os.File{c.lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true, // Ctrl-C is for the one who started it
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("the node: %w", err)
	}
	_, _ = held.Close(), tell.Close()
	c.node, c.lifeline = cmd, lifeline

	ready, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		c.follow(hear, progress, ready)
		_ = hear.Close()
	}()
	go func() {
		err := cmd.Wait()
		<-told
		c.fails(err)
		close(c.ended)
	}()

	if err := enterCgroups(c.spec.CgroupName, cmd.Process.Pid); err != nil {
		return err
	}
	if err := c.plug(ctx); err != nil {
		return err
	}
	if _, err := lifeline.WriteString("\n"); err != nil {
		return err
	}
	select {
	case <-ready:
		return nil
	case <-c.ended:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follow takes what the node tells, until it ends. Lines begin with what they are.
func (c *Cluster) follow(from io.Reader, progress io.Writer, ready chan<- struct{}) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		switch kind {
		case Ready:
			close(ready)
		case Failed:
			c.fails(errors.New(strings.ReplaceAll(rest, "\x00", "\n")))
		case Progress:
			_, _ = fmt.Fprintf(progress, "==> %s\n", rest)
		}
	}
}

// fails keeps the first reason why the cluster ends by itself.
func (c *Cluster) fails(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// What lines from the node begin with.
const (
	Ready    = "ready"
	Failed   = "failed"
	Progress = "progress"
)

// plug puts a cable between the machine and the node. It goes when the node goes.
func (c *Cluster) plug(ctx context.Context) error {
	a := c.Addresses
	pid := strconv.Itoa(c.node.Process.Pid)
	for _, args := range [][]string{
		{"link", "add", a.Interface(), "type", "veth", "peer", "name", NodeInterface, "netns", pid},
		{"addr", "add", a.Host.String() + "/24", "dev", a.Interface()},
		{"link", "set", a.Interface(), "up"},
		{"route", "add", a.Network.String(), "via", a.Node.String(), "dev", a.Interface(), "src", a.Host.String()},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// Neighbour plugs the network of another process to the node, by a cable of its own: it reaches what is in
// the cluster's network as the machine does, and nothing else. It is told the address that it has got. The cable goes when
// either of both goes.
func (c *Cluster) Neighbour(ctx context.Context, pid int) (netip.Addr, error) {
	c.mu.Lock()
	number := c.neighbours
	c.neighbours++
	c.mu.Unlock()
	base := c.Addresses.Neighbours.Addr().As4()
	if 2*number+1 > 255 {
		return netip.Addr{}, errors.New("a cluster has 128 neighbours and no more")
	}
	at := func(fourth int) netip.Addr {
		return netip.AddrFrom4([4]byte{base[0], base[1], base[2], byte(fourth)})
	}
	gate, own, end := at(2*number), at(2*number+1), fmt.Sprintf("neighbour%d", number)
	in := func(pid int, args ...string) []string {
		return append([]string{"nsenter", "--target", strconv.Itoa(pid), "--net", "--", "ip"}, args...)
	}
	for _, command := range [][]string{
		in(c.node.Process.Pid, "link", "add", end, "type", "veth", "peer", "name", NodeInterface, "netns", strconv.Itoa(pid)),
		in(c.node.Process.Pid, "addr", "add", gate.String()+"/31", "dev", end),
		in(c.node.Process.Pid, "link", "set", end, "up"),
		in(pid, "link", "set", "lo", "up"),
		in(pid, "addr", "add", own.String()+"/31", "dev", NodeInterface),
		in(pid, "link", "set", NodeInterface, "up"),
		in(pid, "route", "add", "default", "via", gate.String()),
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return netip.Addr{}, fmt.Errorf("a neighbour of the cluster: %s: %w: %s", strings.Join(command, " "), err, out)
		}
	}
	return own, nil
}

// freeNetwork is the one wanted, or the first that this machine knows nothing of.
func freeNetwork(wanted netip.Prefix) (netip.Prefix, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	taken := func(network netip.Prefix) bool {
		for _, address := range addresses {
			if known, err := netip.ParsePrefix(address.String()); err == nil && known.Masked().Overlaps(network) {
				return true
			}
		}
		return false
	}
	if wanted.IsValid() {
		if taken(wanted) {
			return netip.Prefix{}, fmt.Errorf("this machine has an address in %s already: give another network", wanted)
		}
		return wanted, nil
	}
	for second := byte(97); second < 127; second++ {
		if network := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, second, 0, 0}), 16); !taken(network) {
			return network, nil
		}
	}
	return netip.Prefix{}, errors.New("this machine has addresses in all of 10.97.0.0/16 to 10.126.0.0/16: give another network")
}

// Done is closed when the cluster has ended; Err then says why, if nobody asked for it.
func (c *Cluster) Done() <-chan struct{} { return c.ended }

// Err says why a cluster ended that nobody stopped.
func (c *Cluster) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Stop ends everything and removes the folder.
func (c *Cluster) Stop() error {
	if err := errors.Join(c.end(), os.RemoveAll(c.spec.Dir), c.lock.Close()); err != nil {
		return fmt.Errorf("stopping the cluster: %w", err)
	}
	return nil
}

// end ends the node, and waits until nothing of it is left but its folder.
func (c *Cluster) end() error {
	if c.node == nil {
		return nil
	}
	_ = c.lifeline.Close()
	select {
	case <-c.ended:
	case <-time.After(30 * time.Second):
		_ = c.node.Process.Kill()
		<-c.ended
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return errors.Join(RemoveCgroups(c.spec.CgroupName), until(ctx, func() (bool, error) {
		_, err := net.InterfaceByName(c.Addresses.Interface())
		return err != nil, fmt.Errorf("the interface %s is still there", c.Addresses.Interface())
	}))
}

// Command is a program that is run in the node: in its network, between its mounts, with its
// processes.
func (c *Cluster) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	in := []string{"--target", strconv.Itoa(c.node.Process.Pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--", name}
	return exec.CommandContext(ctx, "nsenter", append(in, args...)...)
}

// Kubectl is kubectl as the administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	return cmd
}

// Load gives the cluster another image archive.
func (c *Cluster) Load(ctx context.Context, file string) error {
	archive, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("loading an image: %w", err)
	}
	defer func() { _ = archive.Close() }()
	cmd := c.Command(ctx, "ctr", ImportArguments("-")...)
	cmd.Stdin = archive
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("loading the image %s: %w: %s", file, err, out)
	}
	return nil
}

// ImportArguments are what ctr is told to import an archive where the kubelet looks for images.
func ImportArguments(file string) []string {
	return []string{"--namespace", "k8s.io", "images", "import", file}
}

// until tries until something is so, and tells the last reason why it is not when ctx ends first.
func until(ctx context.Context, so func() (bool, error)) error {
	for {
		ok, err := so()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

package plugin

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/emptypb"

	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
)

// What go-plugin's protocol fixes.
const (
	coreVersion   = "1"
	maxHandshake  = 16 << 10
	maxReport     = 4 << 20
	shutdownCall  = "/plugin.GRPCController/Shutdown"
	outputCall    = "/plugin.GRPCStdio/StreamStdio"
	certificateOf = "localhost"
)

// process is a plug-in's program that runs.
type process struct {
	cmd    *exec.Cmd
	conn   *grpc.ClientConn
	cage   *cage
	ended  chan struct{}
	err    error // of the end; read it after ended is closed
	output context.CancelFunc
	once   sync.Once
	tails  sync.WaitGroup
}

// start starts a program and shakes hands with it. socketDir is a folder of the
// agent's for its socket.
func start(ctx context.Context, program, socketDir string, memoryBytes int64, log *slog.Logger) (_ *process, _ Plugin, err error) {
	certificate, certificatePEM, err := newCertificate()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(program)
	cmd.Env = []string{
		CookieKey + "=" + CookieValue,
		"PLUGIN_PROTOCOL_VERSIONS=" + strconv.Itoa(ContractVersion),
		"PLUGIN_MIN_PORT=20000", "PLUGIN_MAX_PORT=29999",
		"PLUGIN_CLIENT_CERT=" + string(certificatePEM),
		"PLUGIN_UNIX_SOCKET_DIR=" + socketDir,
	}
	// Nothing else of the agent's environment is a plug-in's business.
	for _, name := range []string{"PATH", "TMPDIR", "TEMP", "TMP", "SystemRoot", "LANG", "TZ"} {
		if value, there := os.LookupEnv(name); there {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("plugin: %w", err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("plugin: %w", err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{}), output: func() {}}
	if p.cage, err = newCage(memoryBytes); err != nil {
		return nil, nil, err
	}
	started := make(chan error, 1)
	line := make(chan string, 1)
	p.tails.Go(func() { p.live(started, stdout, stderr, line, log) })
	defer func() {
		if err != nil {
			p.kill()
		}
	}()
	if err := <-started; err != nil {
		return nil, nil, fmt.Errorf("plugin: start %s: %w", program, err)
	}
	select {
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("plugin: %s did not shake hands: %w", program, ctx.Err())
	case <-p.ended:
		return nil, nil, fmt.Errorf("plugin: %s ended before it shook hands: %w", program, p.endedWith())
	case text := <-line:
		if p.conn, err = dial(text, socketDir, certificate); err != nil {
			return nil, nil, err
		}
	}
	output, stop := context.WithCancel(context.Background())
	p.output = stop
	p.tails.Go(func() { drain(output, p.conn) })
	return p, remote{client: pluginv1.NewPluginServiceClient(p.conn)}, nil
}

// live starts the program and waits for its end, on one thread: Linux ties the child's
// end to the thread that started it.
func (p *process) live(started chan<- error, stdout, stderr io.ReadCloser, line chan<- string, log *slog.Logger) {
	runtime.LockOSThread() // never unlocked: the thread ends with the child
	p.cage.prepare(p.cmd)
	err := p.cmd.Start()
	if err == nil {
		if err = p.cage.enclose(p.cmd.Process); err != nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	}
	if err != nil {
		p.err = err
		close(p.ended)
		started <- err
		return
	}
	started <- nil
	var tails sync.WaitGroup
	tails.Go(func() {
		lines := bufio.NewScanner(io.LimitReader(stdout, maxHandshake))
		if lines.Scan() {
			line <- lines.Text()
		}
		_, _ = io.Copy(io.Discard, stdout)
	})
	tails.Go(func() {
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 64<<10)
		for lines.Scan() {
			log.Debug("a plug-in says", "line", lines.Text())
		}
		_, _ = io.Copy(io.Discard, stderr)
	})
	state, err := p.cmd.Process.Wait()
	if err == nil && !state.Success() {
		err = errors.New(state.String())
	}
	p.err = err
	p.cage.kill(p.cmd.Process) // what it has started may hold its pipes
	close(p.ended)
	tails.Wait()
	_, _ = stdout.Close(), stderr.Close()
}

func (p *process) endedWith() error {
	if p.err == nil {
		return errors.New("it ended by itself")
	}
	return p.err
}

// stop ends the program in good order, or otherwise.
func (p *process) stop(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = p.conn.Invoke(ctx, shutdownCall, &emptypb.Empty{}, &emptypb.Empty{})
	select {
	case <-p.ended:
	case <-ctx.Done():
	}
	p.kill()
}

// kill ends the program and what it has started, and waits until it is gone.
func (p *process) kill() {
	p.once.Do(func() {
		p.cage.kill(p.cmd.Process)
		p.output()
		if p.conn != nil {
			_ = p.conn.Close()
		}
		p.tails.Wait()
		p.cage.close()
	})
}

// dial connects to the address that a handshake tells.
func dial(handshake, socketDir string, certificate tls.Certificate) (*grpc.ClientConn, error) {
	network, address, server, err := parseHandshake(handshake)
	if err != nil {
		return nil, err
	}
	if network == "unix" && !strings.HasPrefix(address, socketDir) {
		return nil, fmt.Errorf("plugin: its socket %s is not where it was told to be", address)
	}
	roots := x509.NewCertPool()
	roots.AddCert(server)
	conn, err := grpc.NewClient("passthrough:///plugin",
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{certificate}, RootCAs: roots, ServerName: certificateOf, MinVersion: tls.VersionTLS13,
		})),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReport)),
	)
	if err != nil {
		return nil, fmt.Errorf("plugin: connect: %w", err)
	}
	return conn, nil
}

// parseHandshake reads the line with which a plug-in answers its start: core version,
// version of the contract, network, address, protocol, certificate.
func parseHandshake(line string) (network, address string, server *x509.Certificate, err error) {
	parts := strings.Split(strings.TrimSpace(line), "|")
	switch {
	case len(parts) < 6:
		return "", "", nil, fmt.Errorf("plugin: %q is no handshake of a plug-in", clip(line))
	case parts[0] != coreVersion:
		return "", "", nil, fmt.Errorf("plugin: it speaks version %q of go-plugin's protocol; %s is known", clip(parts[0]), coreVersion)
	case parts[1] != strconv.Itoa(ContractVersion):
		return "", "", nil, fmt.Errorf("plugin: it follows version %q of the contract; this agent knows %d", clip(parts[1]), ContractVersion)
	case parts[2] != "unix" && parts[2] != "tcp":
		return "", "", nil, fmt.Errorf("plugin: it listens on the network %q", clip(parts[2]))
	case parts[4] != "grpc":
		return "", "", nil, fmt.Errorf("plugin: it speaks %q, not gRPC", clip(parts[4]))
	}
	if parts[2] == "tcp" {
		if host, _, err := net.SplitHostPort(parts[3]); err != nil || host != "127.0.0.1" {
			return "", "", nil, fmt.Errorf("plugin: it listens at %q, which is not this machine alone", clip(parts[3]))
		}
	}
	der, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err == nil {
		server, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return "", "", nil, fmt.Errorf("plugin: its certificate: %w", err)
	}
	return parts[2], parts[3], server, nil
}

func clip(text string) string { return text[:min(len(text), 200)] }

// drain takes what a plug-in prints and drops it, since go-plugin's server would make
// its writes wait otherwise. What it logs to its standard error is logged.
func drain(ctx context.Context, conn *grpc.ClientConn) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, outputCall)
	if err != nil {
		return
	}
	if stream.SendMsg(&emptypb.Empty{}) != nil || stream.CloseSend() != nil {
		return
	}
	for stream.RecvMsg(&emptypb.Empty{}) == nil {
		continue
	}
}

// newCertificate makes the host's certificate for one run of a plug-in.
func newCertificate() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("plugin: certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("plugin: certificate: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: certificateOf, Organization: []string{"Cetrus agent"}}, DNSNames: []string{certificateOf}, SerialNumber: serial,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		// Clocks of the one machine, which may be set while a plug-in runs.
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(30, 0, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("plugin: certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

package plugin

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
)

// What both ends of go-plugin's handshake know. The cookie keeps people from starting a
// plug-in by hand; it is no secret.
const (
	CookieKey   = "CETRUS_PLUGIN"
	CookieValue = "9f2c6a2f-plug-in-of-the-cetrus-agent"
	// ContractVersion is that of proto/cetrus/plugin/v1.
	ContractVersion = 1
)

// Plugin is one plug-in, whether it lives in this process or another. Calls come one after
// the other, but for Report, which runs beside them.
type Plugin interface {
	// Describe says who it is. It comes first and has no effect.
	Describe(ctx context.Context) (*pluginv1.DescribeResponse, error)
	// Configure comes before the first Notify, and again when something of it changed.
	Configure(ctx context.Context, request *pluginv1.ConfigureRequest) error
	// Notify tells events of the kinds that were described, in order.
	Notify(ctx context.Context, events []*pluginv1.Event) error
	// Report tells facts until ctx ends. tell may be called by one goroutine at a time.
	Report(ctx context.Context, tell func(*pluginv1.ReportResponse) error) error
	// Check says how it is doing. It answers at once.
	Check(ctx context.Context) (*pluginv1.Health, error)
	// Stop says goodbye; nothing is called after it.
	Stop(ctx context.Context) error
}

// Register serves a plug-in on a gRPC server: the plug-in's end of the second transport.
func Register(server grpc.ServiceRegistrar, p Plugin) {
	pluginv1.RegisterPluginServiceServer(server, &served{plugin: p})
}

type served struct {
	pluginv1.UnimplementedPluginServiceServer
	plugin Plugin
}

func (s *served) Describe(ctx context.Context, _ *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	return s.plugin.Describe(ctx)
}

func (s *served) Configure(ctx context.Context, r *pluginv1.ConfigureRequest) (*pluginv1.ConfigureResponse, error) {
	return &pluginv1.ConfigureResponse{}, s.plugin.Configure(ctx, r)
}

func (s *served) Notify(ctx context.Context, r *pluginv1.NotifyRequest) (*pluginv1.NotifyResponse, error) {
	return &pluginv1.NotifyResponse{}, s.plugin.Notify(ctx, r.GetEvents())
}

func (s *served) Report(_ *pluginv1.ReportRequest, stream grpc.ServerStreamingServer[pluginv1.ReportResponse]) error {
	return s.plugin.Report(stream.Context(), stream.Send)
}

func (s *served) Check(ctx context.Context, _ *pluginv1.CheckRequest) (*pluginv1.CheckResponse, error) {
	health, err := s.plugin.Check(ctx)
	return &pluginv1.CheckResponse{Health: health}, err
}

func (s *served) Stop(ctx context.Context, _ *pluginv1.StopRequest) (*pluginv1.StopResponse, error) {
	return &pluginv1.StopResponse{}, s.plugin.Stop(ctx)
}

// remote is the host's end of it.
type remote struct{ client pluginv1.PluginServiceClient }

func (r remote) Describe(ctx context.Context) (*pluginv1.DescribeResponse, error) {
	return r.client.Describe(ctx, &pluginv1.DescribeRequest{})
}

func (r remote) Configure(ctx context.Context, request *pluginv1.ConfigureRequest) error {
	_, err := r.client.Configure(ctx, request)
	return err
}

func (r remote) Notify(ctx context.Context, events []*pluginv1.Event) error {
	_, err := r.client.Notify(ctx, &pluginv1.NotifyRequest{Events: events})
	return err
}

func (r remote) Report(ctx context.Context, tell func(*pluginv1.ReportResponse) error) error {
	stream, err := r.client.Report(ctx, &pluginv1.ReportRequest{})
	if err != nil {
		return err
	}
	for {
		report, err := stream.Recv()
		if err != nil {
			if err == io.EOF { //nolint:errorlint // grpc gives it as it is.
				return nil
			}
			return err
		}
		if err := tell(report); err != nil {
			return err
		}
	}
}

func (r remote) Check(ctx context.Context) (*pluginv1.Health, error) {
	response, err := r.client.Check(ctx, &pluginv1.CheckRequest{})
	return response.GetHealth(), err
}

func (r remote) Stop(ctx context.Context) error {
	_, err := r.client.Stop(ctx, &pluginv1.StopRequest{})
	return err
}

// guarded keeps a panic of a built-in plug-in from ending the agent.
type guarded struct{ Plugin }

func guard(err *error) {
	if p := recover(); p != nil {
		*err = status.Error(codes.Internal, fmt.Sprintf("it panicked: %v", p))
	}
}

func (g guarded) Describe(ctx context.Context) (_ *pluginv1.DescribeResponse, err error) {
	defer guard(&err)
	return g.Plugin.Describe(ctx)
}

func (g guarded) Configure(ctx context.Context, r *pluginv1.ConfigureRequest) (err error) {
	defer guard(&err)
	return g.Plugin.Configure(ctx, r)
}

func (g guarded) Notify(ctx context.Context, events []*pluginv1.Event) (err error) {
	defer guard(&err)
	return g.Plugin.Notify(ctx, events)
}

func (g guarded) Report(ctx context.Context, tell func(*pluginv1.ReportResponse) error) (err error) {
	defer guard(&err)
	return g.Plugin.Report(ctx, tell)
}

func (g guarded) Check(ctx context.Context) (_ *pluginv1.Health, err error) {
	defer guard(&err)
	return g.Plugin.Check(ctx)
}

func (g guarded) Stop(ctx context.Context) (err error) {
	defer guard(&err)
	return g.Plugin.Stop(ctx)
}

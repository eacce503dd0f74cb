package follow

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// TellUses tells identity, again and again until ctx ends, which API keys were used here. What
// cannot be told is lost: it is asked for by people who look for keys that nothing needs.
func TellUses(ctx context.Context, nc *nats.Conn, directory *authn.Directory, every time.Duration, log *slog.Logger) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	since := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := time.Now()
		uses := directory.KeysUsed(since)
		since = now
		for _, use := range uses {
			message, err := proto.Marshal(&identityv1.ApiKeyUse{ApiKeyId: use.Key[:], LoginId: use.Login[:], UseTime: timestamppb.New(use.At)})
			if err != nil {
				return fmt.Errorf("authn/follow: %w", err)
			}
			if err := nc.Publish(contract.KeyUseSubject(use.Account), message); err != nil {
				log.WarnContext(ctx, "when API keys were used cannot be told just now", "error", err)
				break
			}
		}
	}
}

package contexts

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
)

// spare is how long before its end an access token is not used any more.
const spare = 20 * time.Second

// SignedOutError says that there is no session to call with.
type SignedOutError struct {
	Context string
	// Why there is none any more.
	Why string
}

// Error says the way out.
func (e *SignedOutError) Error() string {
	return fmt.Sprintf("not signed in (context %s): %s; sign in with `cetrusctl login`", e.Context, e.Why)
}

// Credentials call in the name of a context's session, and keep it fresh.
type Credentials struct {
	file    *File
	name    string
	refresh identityv1.SignInServiceClient
	now     func() time.Time

	mu      sync.Mutex
	session *Session
}

// CredentialsOf are those of a context. The client that refreshes carries none itself.
func CredentialsOf(file *File, c *Context, refresh identityv1.SignInServiceClient, now func() time.Time) *Credentials {
	return &Credentials{file: file, name: c.Name, refresh: refresh, now: now, session: c.Session}
}

// Bearer is an access token that is still good.
func (c *Credentials) Bearer(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		return "", &SignedOutError{c.name, "there is no session"}
	}
	if c.session.AccessUntil.Sub(c.now()) > spare {
		return c.session.AccessToken, nil
	}
	if err := c.renew(ctx, c.session.AccessToken); err != nil {
		return "", err
	}
	return c.session.AccessToken, nil
}

// Renew gets another token in place of one that was refused.
func (c *Credentials) Renew(ctx context.Context, refused string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		return false, nil
	}
	if c.session.AccessToken == refused {
		if err := c.renew(ctx, refused); err != nil {
			return false, err
		}
	}
	return true, nil
}

// renew replaces the token that is old, by one that another process has got already or by a new one.
func (c *Credentials) renew(ctx context.Context, old string) error {
	var ended error
	err := c.file.Update(ctx, func(state *State) error {
		kept := state.Context(c.name)
		if kept == nil || kept.Session == nil {
			return &SignedOutError{c.name, "the session was ended here meanwhile"}
		}
		if kept.Session.AccessToken != old {
			c.session = kept.Session
			return nil
		}
		answer, err := c.refresh.RefreshSession(ctx, &identityv1.RefreshSessionRequest{RefreshToken: kept.Session.RefreshToken})
		if status.Code(err) == codes.Unauthenticated {
			// It is of no use any more, and so is not kept.
			kept.Session, ended = nil, &SignedOutError{c.name, "the session has ended (" + status.Convert(err).Message() + ")"}
			return nil
		}
		if err != nil {
			return err
		}
		kept.Session = SessionOf(answer.GetTokens())
		c.session = kept.Session
		return nil
	})
	return errors.Join(err, ended)
}

// SessionOf is what is kept of tokens.
func SessionOf(t *identityv1.Tokens) *Session {
	return &Session{
		AccessToken: t.GetAccessToken(), AccessUntil: t.GetAccessTokenExpireTime().AsTime(),
		RefreshToken: t.GetRefreshToken(), RefreshUntil: t.GetRefreshTokenExpireTime().AsTime(),
	}
}

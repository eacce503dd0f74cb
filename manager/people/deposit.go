package people

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	keyringv1 "github.com/cetrus/cetrus/proto/cetrus/keyring/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const (
	maxDeposit     = 1000
	depositPeriod  = 30 * time.Second
	depositTimeout = 5 * time.Second
	firstRetry     = 500 * time.Millisecond
	lastRetry      = 30 * time.Second
)

// stir wakes Deposit.
func (b *Book) stir() {
	select {
	case b.pending <- struct{}{}:
	default:
	}
}

// Deposit hands the keys of principals to the platform until the context ends,
// each until it has been answered once: a key that was destroyed there since is
// not handed over again.
func (b *Book) Deposit(ctx context.Context, nc *nats.Conn, account, manager contract.ID) error {
	pause := firstRetry
	for {
		wait := depositPeriod
		if err := b.deposit(ctx, nc, account, manager); err == nil {
			pause = firstRetry
		} else if ctx.Err() == nil {
			b.log.Warn("the keys of people are not deposited yet: their names cannot be read on the platform", "error", err, "next_attempt_in", pause)
			wait = pause
			pause = min(2*pause, lastRetry)
			// What stirs in between is part of the next attempt.
			select {
			case <-b.pending:
			default:
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.pending:
		case <-time.After(wait):
		}
	}
}

func (b *Book) deposit(ctx context.Context, nc *nats.Conn, account, manager contract.ID) error {
	for {
		if err := b.file.Sync(); err != nil {
			return err
		}
		request := &keyringv1.DepositRequest{AccountId: account[:], ManagerId: manager[:]}
		var handed []*principal
		b.mu.Lock()
		for _, p := range b.principals {
			if len(handed) == maxDeposit {
				break
			}
			if !p.deposited {
				handed = append(handed, p)
				request.Keys = append(request.Keys, &keyringv1.PrincipalKey{PrincipalId: p.id[:], Key: p.key[:]})
			}
		}
		b.mu.Unlock()
		if len(handed) == 0 {
			return nil
		}
		if err := ask(ctx, nc, contract.KeyringSubject(account, manager), request); err != nil {
			return err
		}
		b.mu.Lock()
		for _, p := range handed {
			p.deposited = true
			b.file.Write(line{Principal: p.id[:], Deposited: true})
		}
		b.mu.Unlock()
		if err := b.file.Sync(); err != nil {
			return err
		}
	}
}

func ask(ctx context.Context, nc *nats.Conn, subject string, request *keyringv1.DepositRequest) error {
	raw, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, depositTimeout)
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, subject, raw)
	if err != nil {
		return fmt.Errorf("people: deposit %d keys: %w", len(request.GetKeys()), err)
	}
	var response keyringv1.DepositResponse
	if err := proto.Unmarshal(answer.Data, &response); err != nil {
		return fmt.Errorf("people: the answer to a deposit cannot be read: %w", err)
	}
	if response.GetError() != "" {
		return errors.New("people: the platform does not take keys: " + response.GetError())
	}
	return nil
}

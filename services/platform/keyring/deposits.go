package keyring

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	keyringv1 "github.com/cetrus/cetrus/proto/cetrus/keyring/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// queue has one of several platform processes answer each deposit.
	queue = "keyring"
	// maxDeposit is the greatest number of keys in one request.
	maxDeposit = 1000
	// waitingDeposits bounds the requests that wait; a Manager repeats what was
	// dropped.
	waitingDeposits = 256
	// depositTimeout bounds the work on one request.
	depositTimeout = 10 * time.Second
)

// Run takes deposits until ctx ends, then returns nil. The answer to a deposit
// is sent when its keys are durable.
func (k *Keyring) Run(ctx context.Context) error {
	if k.deps.NATS == nil {
		return errors.New("keyring: it has no NATS connection to take deposits from")
	}
	requests := make(chan *nats.Msg, waitingDeposits)
	sub, err := k.deps.NATS.ChanQueueSubscribe(contract.KeyringSubjects, queue, requests)
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only where the connection is gone
	for {
		select {
		case <-ctx.Done():
			return nil
		case msg := <-requests:
			k.answer(ctx, msg)
		}
	}
}

func (k *Keyring) answer(ctx context.Context, msg *nats.Msg) {
	ctx, cancel := context.WithTimeout(ctx, depositTimeout)
	defer cancel()
	response := &keyringv1.DepositResponse{}
	account, manager, entries, err := parseDeposit(msg.Subject, msg.Data)
	if err == nil {
		err = k.deposit(ctx, account, manager, entries)
	}
	if err != nil {
		public := errs.PublicOf(err)
		response.Error = public.Reason + ": " + public.Message
		k.deps.Logger.WarnContext(ctx, "a deposit of keys failed", "subject", msg.Subject, "error", err)
	}
	data, err := proto.Marshal(response)
	if err == nil {
		err = msg.Respond(data)
	}
	if err != nil {
		k.deps.Logger.WarnContext(ctx, "a deposit of keys was not answered", "subject", msg.Subject, "error", err)
	}
}

// refused says what is wrong with a request, to whoever made it.
func refused(format string, args ...any) error {
	return errs.New(errs.Invalid, "keyring.Deposit", "", fmt.Sprintf(format, args...))
}

// parseDeposit reads a request from outside. NATS lets a Manager publish under
// its own subject only, so what the request says of itself must agree with that.
func parseDeposit(subject string, data []byte) (account, manager contract.ID, entries []entry, err error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 4 {
		return account, manager, nil, refused("subject %q is not keyring.<p>.<account>.<manager>", subject)
	}
	if account, err = contract.ParseID(tokens[2]); err == nil {
		manager, err = contract.ParseID(tokens[3])
	}
	if err != nil {
		return account, manager, nil, refused("subject %q: %v", subject, err)
	}
	if contract.KeyringSubject(account, manager) != subject {
		return account, manager, nil, refused("subject %q is not that of its account", subject)
	}
	var request keyringv1.DepositRequest
	if err := proto.Unmarshal(data, &request); err != nil {
		return account, manager, nil, errs.As(errs.Invalid, "keyring.Deposit", "", "not a deposit", err)
	}
	if string(request.GetAccountId()) != string(account[:]) {
		return account, manager, nil, refused("the deposit is for account %x, but came for %s: %s", request.GetAccountId(), account, contract.ReasonForeignAccount)
	}
	if string(request.GetManagerId()) != string(manager[:]) {
		return account, manager, nil, refused("the deposit is from Manager %x, but came from %s: %s", request.GetManagerId(), manager, contract.ReasonForeignManager)
	}
	if n := len(request.GetKeys()); n < 1 || n > maxDeposit {
		return account, manager, nil, refused("%d keys in one deposit, not 1 to %d", n, maxDeposit)
	}
	seen := make(map[contract.ID]Key, len(request.GetKeys()))
	for i, item := range request.GetKeys() {
		principal, err := contract.IDFrom(item.GetPrincipalId())
		if err != nil || principal.IsZero() {
			return account, manager, nil, refused("key %d: its principal is no id", i)
		}
		e := entry{principal: principal}
		if len(item.GetKey()) != len(e.key) {
			return account, manager, nil, refused("key %d has %d bytes, not %d", i, len(item.GetKey()), len(e.key))
		}
		copy(e.key[:], item.GetKey())
		if other, ok := seen[principal]; ok {
			if other != e.key {
				return account, manager, nil, refused("principal %s comes with two keys", principal)
			}
			continue
		}
		seen[principal] = e.key
		entries = append(entries, e)
	}
	return account, manager, entries, nil
}

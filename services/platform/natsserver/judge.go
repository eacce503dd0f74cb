package natsserver

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// judges is the queue group of the servers' judges: one of them answers each question, that of
	// the server to which who asks is connected. So whoever loses its judge has lost its
	// connection, and asks again at the next server.
	judges = "judges"
	// judgeWithin is how long JetStream may take over what a judge asks it: who asked the judge
	// waits no longer.
	judgeWithin = 5 * time.Second
	// judgedAtOnce is how many questions wait for JetStream. While a stream elects its leader, all
	// about it do.
	judgedAtOnce = 256
)

// judge answers, within the platform's account, what roles and Managers may not ask JetStream
// themselves, since NATS judges subjects alone and the rest stands in the body. It keeps nothing:
// each server of a cluster has one.
type judge struct {
	nc   *nats.Conn
	work sync.WaitGroup
	room chan struct{}
}

// newJudge answers on a connection, which is its own from then on.
func newJudge(nc *nats.Conn) (*judge, error) {
	j := &judge{nc: nc, room: make(chan struct{}, judgedAtOnce)}
	if err := errors.Join(j.answer(streamInfoBehind+"*", j.streamInfo), j.answer(lastBehind+">", j.last), j.answer(contract.PolicyAsks, j.policyAsk), j.answer(createBehind+">", j.create), answerCopies(nc)); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// answer has a kind of question answered, one beside the other. No answer has who asks ask again.
func (j *judge) answer(subject string, with func(question *nats.Msg) (answer *nats.Msg)) error {
	_, err := j.nc.QueueSubscribe(subject, judges, func(question *nats.Msg) {
		j.room <- struct{}{}
		j.work.Go(func() {
			defer func() { <-j.room }()
			if answer := with(question); answer != nil {
				_ = question.RespondMsg(answer) // fails only where the connection is gone
			}
		})
	})
	if err != nil {
		return fmt.Errorf("natsserver: answer on %s: %w", subject, err)
	}
	return nil
}

// close ends what waits, and waits for it.
func (j *judge) close() {
	j.nc.Close()
	j.work.Wait()
}

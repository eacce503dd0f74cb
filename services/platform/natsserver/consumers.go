package natsserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	consumerCreate = "$JS.API.CONSUMER.CREATE."
	consumerNext   = "$JS.API.CONSUMER.MSG.NEXT."
	// createBehind is where a role's wish for a consumer comes out in the platform's account:
	// createBehind.<role>.<stream>.<consumer>[.<filter>].
	createBehind = "roles.consumer.create."
	// knownWithin is how long servers may take to tell one another where a consumer is, and
	// knownEvery how often that is tried.
	knownWithin, knownEvery = time.Second, 20 * time.Millisecond
)

// create makes the consumer that a role wishes for. What a consumer reads, and where it sends it,
// stands in the body of the wish, of which the permissions of NATS judge nothing: one that delivers
// to a subject of another stream would have events of the role's own making appended there.
func (j *judge) create(wish *nats.Msg) *nats.Msg {
	answer, err := j.createJudged(wish.Subject, wish.Data)
	if errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	if err != nil {
		answer = refusal(err)
	}
	return &nats.Msg{Data: answer}
}

func (j *judge) createJudged(subject string, body []byte) ([]byte, error) {
	tokens := strings.SplitN(strings.TrimPrefix(subject, createBehind), ".", 4)
	if len(tokens) < 3 {
		return nil, fmt.Errorf("%s names no consumer", subject)
	}
	r, _ := roleNamed(tokens[0])
	stream, name := tokens[1], tokens[2]
	var wish server.CreateConsumerRequest
	if err := json.Unmarshal(body, &wish); err != nil {
		return nil, fmt.Errorf("the consumer wished for cannot be read: %w", err)
	}
	if err := r.mayCreate(stream, name, wish); err != nil {
		return nil, err
	}
	// What was judged is what is asked for, whatever else the body said.
	asked, err := json.Marshal(wish)
	if err != nil {
		return nil, err
	}
	answer, err := j.nc.Request(consumerCreate+strings.Join(tokens[1:], "."), asked, judgeWithin)
	if err != nil {
		return nil, err
	}
	var made server.JSApiConsumerCreateResponse
	if json.Unmarshal(answer.Data, &made) == nil && made.Error == nil {
		j.awaitConsumer(stream, name)
	}
	return answer.Data, nil
}

// awaitConsumer waits until this server knows where a consumer is that another server of the cluster
// may have. The answer that it was made can be here before that is, and what is asked of the
// consumer then reaches nobody, which who asks notices half a minute later. So the consumer is asked for
// what it refuses.
func (j *judge) awaitConsumer(stream, name string) {
	const noRequest = "{"
	for late := time.Now().Add(knownWithin); time.Now().Before(late); <-time.After(knownEvery / 20) {
		_, err := j.nc.Request(consumerNext+stream+"."+name, []byte(noRequest), knownEvery)
		if !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, nats.ErrNoResponders) {
			return
		}
	}
}

// mayCreate tells why a role may not have a consumer.
func (r role) mayCreate(stream, name string, wish server.CreateConsumerRequest) error {
	at := slices.IndexFunc(r.reads, func(reads reading) bool { return reads.stream == stream })
	if at < 0 || wish.Stream != stream {
		return fmt.Errorf("%s does not read stream %s", r.name, wish.Stream)
	}
	reads, config := r.reads[at], wish.Config
	if config.DeliverSubject != "" || config.DeliverGroup != "" {
		return fmt.Errorf("consumer %s would deliver to %q; %s fetches what it reads", name, config.DeliverSubject, r.name)
	}
	for _, called := range []string{name, config.Name, config.Durable} {
		for _, other := range roles() {
			for _, theirs := range other.reads {
				if theirs.stream == stream && slices.Contains(theirs.durables, called) && other.name != r.name {
					return fmt.Errorf("consumer %s is of %s", called, other.name)
				}
			}
		}
	}
	if config.Durable != "" && !slices.Contains(reads.durables, config.Durable) {
		return fmt.Errorf("%s has no durable consumer %s", r.name, config.Durable)
	}
	if len(reads.filters) == 0 {
		return nil
	}
	wanted := config.FilterSubjects
	if config.FilterSubject != "" || len(wanted) == 0 {
		wanted = append(slices.Clone(wanted), config.FilterSubject)
	}
	for _, filter := range wanted {
		if !slices.ContainsFunc(reads.filters, func(widest string) bool { return filter != "" && server.SubjectMatchesFilter(filter, widest) }) {
			return fmt.Errorf("%s does not read %q of stream %s", r.name, filter, stream)
		}
	}
	return nil
}

// refusal is an answer as JetStream gives it to who may not.
func refusal(why error) []byte {
	text, err := json.Marshal(map[string]any{
		"type":  server.JSApiConsumerCreateResponseType,
		"error": server.ApiError{Code: 403, Description: why.Error()},
	})
	if err != nil {
		return nil // never: both are plain values
	}
	return text
}

package natsserver

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// streamInfo and a stream's name are what is asked to learn when the stream was made and how
	// far it reaches, so that one that was made anew or put back is noticed.
	streamInfo = "$JS.API.STREAM.INFO."
	// streamInfoBehind and the name are where that question comes out in the platform's account,
	// of Managers and of roles that need no more.
	streamInfoBehind = "roles.stream.info."
	// lastBehind, a stream and a subject are where a Manager's question for the subject's last
	// message comes out there.
	lastBehind = "roles.last."
	// lastOfLeader and a stream's name are how its leader is asked.
	lastOfLeader = "$JS.API.STREAM.MSG.GET."
)

// streamInfo answers about a stream. JetStream's own answer would, if asked to, list the subjects of
// every account; this one tells what a reader needs, whatever the question says.
func (j *judge) streamInfo(question *nats.Msg) *nats.Msg {
	answer, err := j.nc.Request(streamInfo+strings.TrimPrefix(question.Subject, streamInfoBehind), nil, judgeWithin)
	if err != nil {
		return nil
	}
	reduced, err := reduceStreamInfo(answer.Data)
	if err != nil {
		return nil
	}
	return &nats.Msg{Data: reduced}
}

// last answers Managers who ask for the last message of a subject, as its stream's leader knows it.
// They ask as for one that any replica may answer, of which the subject alone says what is read; but
// a replica may lag: a Manager that believed it would see a tail lost that is not, or follow
// a policy of before.
func (j *judge) last(question *nats.Msg) *nats.Msg {
	stream, subject, _ := strings.Cut(strings.TrimPrefix(question.Subject, lastBehind), ".")
	ask, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return nil
	}
	answer, err := j.nc.Request(lastOfLeader+stream, ask, judgeWithin)
	if err != nil {
		return nil
	}
	var found struct {
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
		Error *struct {
			Code jetstream.ErrorCode `json:"err_code"`
		} `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &found); err != nil {
		return nil
	}
	if found.Error != nil {
		if found.Error.Code != jetstream.JSErrCodeMessageNotFound {
			return nil
		}
		return &nats.Msg{Header: nats.Header{"Status": {"404"}, "Description": {"Message Not Found"}}}
	}
	message := found.Message
	last := &nats.Msg{Data: message.Data, Header: nats.Header{}}
	if len(message.Header) > 0 {
		if last.Header, err = nats.DecodeHeadersMsg(message.Header); err != nil {
			return nil
		}
	}
	last.Header[jetstream.StreamHeader] = []string{stream}
	last.Header[jetstream.SubjectHeader] = []string{message.Subject}
	last.Header[jetstream.SequenceHeader] = []string{strconv.FormatUint(message.Sequence, 10)}
	last.Header[jetstream.TimeStampHeaer] = []string{message.Time.Format(time.RFC3339Nano)}
	return last
}

// policyAsk answers Managers who ask for their account's policy as the stream's leader knows it, in a
// question of its own: a Manager of an earlier release, at a platform whose replicas answered.
func (j *judge) policyAsk(question *nats.Msg) *nats.Msg {
	account, err := contract.ParseID(question.Subject[strings.LastIndexByte(question.Subject, '.')+1:])
	if err != nil || question.Subject != contract.PolicyAskSubject(account) {
		return nil
	}
	last := j.last(&nats.Msg{Subject: lastBehind + contract.PolicyStream + "." + contract.PolicySubject(account)})
	if last == nil {
		return nil
	}
	return &nats.Msg{Data: last.Data}
}

// reduceStreamInfo keeps of a stream's description what it is called, that its
// last messages can be had directly, when it was made, and which sequences it holds.
func reduceStreamInfo(answer []byte) ([]byte, error) {
	var info struct {
		Type   string `json:"type"`
		Config struct {
			Name        string `json:"name"`
			AllowDirect bool   `json:"allow_direct"`
		} `json:"config"`
		Created string `json:"created"`
		State   struct {
			FirstSeq uint64 `json:"first_seq"`
			LastSeq  uint64 `json:"last_seq"`
		} `json:"state"`
		Error json.RawMessage `json:"error,omitempty"`
	}
	if err := json.Unmarshal(answer, &info); err != nil {
		return nil, err
	}
	return json.Marshal(info)
}

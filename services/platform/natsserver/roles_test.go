package natsserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// parts are the platform's parts, and who may do everything.
type parts struct {
	t        *testing.T
	platform *nats.Conn
	by       map[string]*nats.Conn

	sentinels int
	mu        sync.Mutex
	refused   map[string][]string // what the server said to whom
}

func newParts(t *testing.T, size int) *parts {
	t.Helper()
	p := &parts{t: t, by: make(map[string]*nats.Conn), refused: make(map[string][]string)}
	platform := natsserver.PlatformUser(natsserver.NewPassword())
	users := []natsserver.User{platform}
	for _, name := range natsserver.Roles() {
		users = append(users, natsserver.RoleUser(name, natsserver.NewPassword()))
	}
	servers := startSeveral(t, size, users...)
	p.platform = connect(t, servers.at(0), platform)
	ensure(t, p.platform, natsserver.Streams{Replicas: size})
	for i, user := range users[1:] {
		p.by[user.Name] = connect(t, servers.at(i), user, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.refused[user.Name] = append(p.refused[user.Name], err.Error())
		}))
	}
	return p
}

func (p *parts) js(name string) jetstream.JetStream {
	p.t.Helper()
	nc := p.by[name]
	if name == "platform" {
		nc = p.platform
	}
	js, err := jetstream.New(nc)
	if err != nil {
		p.t.Fatal(err)
	}
	return js
}

// violations are what the server has said to a part of all that the part has sent so far.
func (p *parts) violations(name string) string {
	p.t.Helper()
	p.sentinels++
	last := fmt.Sprintf("sentinel.%d", p.sentinels)
	if err := p.by[name].Publish(last, nil); err != nil {
		p.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		p.mu.Lock()
		said := strings.Join(p.refused[name], "\n")
		p.mu.Unlock()
		if before, _, found := strings.Cut(said, fmt.Sprintf("Publish to %q", last)); found {
			return before[:strings.LastIndexByte("\n"+before, '\n')]
		}
		<-time.After(time.Millisecond)
	}
	p.t.Fatalf("the server does not refuse what %s may not", name)
	return ""
}

// held is every message of every stream, by its subject.
func (p *parts) held() []string {
	p.t.Helper()
	var all []string
	for _, name := range []string{contract.AgentStream, contract.EventStream, contract.PolicyStream, contract.PoisonStream} {
		stream, err := p.js("platform").Stream(p.t.Context(), name)
		if err != nil {
			p.t.Fatal(err)
		}
		for seq := stream.CachedInfo().State.FirstSeq; seq <= stream.CachedInfo().State.LastSeq; seq++ {
			if msg, err := stream.GetMsg(p.t.Context(), seq); err == nil {
				all = append(all, msg.Subject)
			}
		}
	}
	return all
}

func event(context, aggregate string) string {
	return contract.EventSubject(contract.ID{1}, context, aggregate, "x")
}

// first makes a consumer and returns the subject of the first message that it brings.
func (p *parts) first(name, stream string, config jetstream.ConsumerConfig) (string, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	consumer, err := p.js(name).CreateConsumer(ctx, stream, config)
	if err != nil {
		return "", err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return "", err
	}
	defer messages.Stop()
	msg, err := messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		return "", err
	}
	if _, err := msg.Metadata(); err != nil {
		return "", err
	}
	if config.AckPolicy == jetstream.AckExplicitPolicy {
		err = msg.DoubleAck(ctx)
	}
	return msg.Subject(), err
}

func eachPartDoesItsWork(t *testing.T, size int) {
	p := newParts(t, size)
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	agent := contract.AgentSubject(contract.ID{1}, contract.ID{2}, usagev1.Lane_LANE_USAGE)
	if _, err := p.js("platform").Publish(ctx, agent, []byte("batch")); err != nil {
		t.Fatal(err)
	}
	for _, write := range []struct{ by, subject string }{
		{natsserver.Identity, event("identity", "account")},
		{natsserver.Identity, event("identity", "login")},
		{natsserver.Identity, contract.AdmissionSubject(contract.ID{1})},
		{natsserver.Identity, contract.PoisonSubject("identity-mail")},
		{natsserver.Identity, contract.PoisonSubject("identity-forget")},
		{natsserver.Metering, event("metering", "catalog")},
		{natsserver.Metering, contract.PolicySubject(contract.ID{1})},
		{natsserver.Metering, contract.PoisonSubject("metering-policy")},
	} {
		if _, err := p.js(write.by).Publish(ctx, write.subject, []byte(write.subject), jetstream.WithExpectLastSequencePerSubject(0)); err != nil {
			t.Errorf("%s on %s: %v", write.by, write.subject, err)
		}
	}
	explicit := func(durable string, filters ...string) jetstream.ConsumerConfig {
		return jetstream.ConsumerConfig{Durable: durable, FilterSubjects: filters, AckPolicy: jetstream.AckExplicitPolicy}
	}
	for _, read := range []struct {
		by, stream string
		config     jetstream.ConsumerConfig
		first      string
	}{
		{natsserver.Identity, contract.EventStream, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy}, event("identity", "account")},
		{natsserver.Identity, contract.EventStream, explicit("identity-mail", "ev.*.*.identity.login.*", "ev.*.*.identity.apikey.*"), event("identity", "login")},
		{natsserver.Identity, contract.EventStream, explicit("identity-forget", "ev.*.*.identity.login.*"), event("identity", "login")},
		{natsserver.Metering, contract.AgentStream, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy}, agent},
		{natsserver.Metering, contract.EventStream, jetstream.ConsumerConfig{FilterSubject: "ev.*.*.metering.>", AckPolicy: jetstream.AckNonePolicy}, event("metering", "catalog")},
		{natsserver.Metering, contract.EventStream, explicit("metering-policy", "ev.*.*.metering.>", "ev.*.*.identity.account.*"), event("identity", "account")},
		{natsserver.Metering, contract.EventStream, jetstream.ConsumerConfig{FilterSubject: "ev.*.*.identity.login.*", AckPolicy: jetstream.AckNonePolicy}, event("identity", "login")},
		{natsserver.Gateway, contract.EventStream, jetstream.ConsumerConfig{FilterSubjects: []string{"ev.*.*.identity.login.*", "ev.*.*.identity.apikey.*"}, AckPolicy: jetstream.AckNonePolicy}, event("identity", "login")},
		{natsserver.Operator, contract.EventStream, jetstream.ConsumerConfig{FilterSubject: fmt.Sprintf("ev.%d.%s.>", contract.Partition(contract.ID{1}), contract.ID{1}), AckPolicy: jetstream.AckNonePolicy}, event("identity", "account")},
		{natsserver.Operator, contract.AgentStream, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy}, agent},
		{natsserver.Archive, contract.AgentStream, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy}, agent},
	} {
		if got, err := p.first(read.by, read.stream, read.config); err != nil || got != read.first {
			t.Errorf("%s reads %q of %s, %v; want %s", read.by, got, read.stream, err, read.first)
		}
		stream, err := p.js(read.by).Stream(ctx, read.stream)
		if err != nil || stream.CachedInfo().Created.IsZero() || stream.CachedInfo().State.LastSeq == 0 {
			t.Errorf("%s asks about %s: %v", read.by, read.stream, err)
		}
	}
	for by, streams := range map[string][]string{
		natsserver.Identity: {contract.EventStream, contract.PolicyStream},
		natsserver.Metering: {contract.AgentStream, contract.EventStream, contract.PolicyStream, contract.PoisonStream},
	} {
		for _, name := range streams {
			stream, err := p.js(by).Stream(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			last, err := stream.GetMsg(ctx, stream.CachedInfo().State.LastSeq)
			if err != nil {
				t.Errorf("%s loads of %s: %v", by, name, err)
				continue
			}
			if _, err := stream.GetLastMsgForSubject(ctx, last.Subject); err != nil {
				t.Errorf("%s loads the last of %s: %v", by, last.Subject, err)
			}
			if answer, _ := request(p.by[by], "$JS.API.STREAM.MSG.GET."+name, []byte(`{"last_by_subj":"`+last.Subject+`"}`), patience); !strings.Contains(answer, `"message"`) {
				t.Errorf("%s loads of the leader of %s: %s", by, name, answer)
			}
		}
	}
	ordered, err := p.js(natsserver.Operator).OrderedConsumer(ctx, contract.EventStream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"ev.>"}})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := ordered.Info(ctx); err != nil || info.NumPending != 3 {
		t.Errorf("the operator's consumer: %+v, %v", info, err)
	}
	poison, err := p.js(natsserver.Metering).Stream(ctx, contract.PoisonStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := poison.DeleteMsg(ctx, poison.CachedInfo().State.LastSeq); err != nil {
		t.Errorf("metering removes what it replayed: %v", err)
	}
	kept, err := p.js(natsserver.Archive).Stream(ctx, contract.AgentStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.Purge(ctx, jetstream.WithPurgeSequence(kept.CachedInfo().State.LastSeq+1)); err != nil {
		t.Errorf("the archive takes out what it keeps: %v", err)
	}
	for order, by := range map[string]string{"ops.identity.accounts": natsserver.Identity, "ops.metering.progress": natsserver.Metering} {
		if _, err := p.by[natsserver.Operator].Request(order, nil, patience); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("an order to nobody: %v", err)
		}
		if _, err := p.by[by].QueueSubscribe(strings.TrimSuffix(order, order[strings.LastIndexByte(order, '.')+1:])+">", by, func(m *nats.Msg) { _ = m.Respond([]byte("done")) }); err != nil {
			t.Fatal(err)
		}
		if err := p.by[by].Flush(); err != nil {
			t.Fatal(err)
		}
		if answer := answered(p.by[natsserver.Operator], order); answer != "done" {
			t.Errorf("%s answers %q", by, answer)
		}
	}
	for _, name := range natsserver.Roles() {
		if said := p.violations(name); said != "" {
			t.Errorf("the work of %s meets: %s", name, said)
		}
	}
}

// partsAreWalledOff has each part try all that is another's.
func partsAreWalledOff(t *testing.T, size int) {
	p := newParts(t, size)
	ctx := t.Context()
	everywhere := map[string]string{ // subjects, and who may write them
		contract.AgentSubject(contract.ID{1}, contract.ID{2}, usagev1.Lane_LANE_USAGE): "",
		event("identity", "login"):                natsserver.Identity,
		event("metering", "catalog"):              natsserver.Metering,
		event("another", "thing"):                 "",
		contract.PolicySubject(contract.ID{1}):    natsserver.Metering,
		contract.AdmissionSubject(contract.ID{1}): natsserver.Identity,
		contract.PoisonSubject("identity-mail"):   natsserver.Identity,
		contract.PoisonSubject("metering-policy"): natsserver.Metering,
	}
	for subject := range everywhere {
		if _, err := p.js("platform").Publish(ctx, subject, []byte("kept")); err != nil {
			t.Fatal(err)
		}
	}
	durables := map[string]string{"identity-mail": natsserver.Identity, "identity-forget": natsserver.Identity, "metering-policy": natsserver.Metering}
	for name := range durables {
		if _, err := p.js("platform").CreateConsumer(ctx, contract.EventStream, jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
			t.Fatal(err)
		}
	}
	held := p.held()
	reads := map[string][]string{
		natsserver.Identity: {contract.EventStream}, natsserver.Metering: {contract.AgentStream, contract.EventStream},
		natsserver.Gateway: {contract.EventStream}, natsserver.Operator: {contract.EventStream, contract.AgentStream},
		natsserver.Archive: {contract.AgentStream},
	}
	loads := map[string][]string{
		natsserver.Identity: {contract.EventStream, contract.PolicyStream},
		natsserver.Metering: {contract.AgentStream, contract.EventStream, contract.PolicyStream, contract.PoisonStream},
		natsserver.Archive:  {contract.AgentStream},
	}
	for _, name := range natsserver.Roles() {
		t.Run(name, func(t *testing.T) {
			forbidden := map[string]string{
				"$JS.API.STREAM.NAMES": "", "$JS.API.STREAM.LIST": "", "$JS.API.INFO": "", "$JS.API.STREAM.CREATE.MORE": `{"name":"MORE","subjects":["more"]}`,
				"$SYS.REQ.SERVER.PING": "", "$SYS.REQ.ACCOUNT.PING.CONNZ": "", "$SYS.REQ.USER.INFO": "",
				contract.SightingSubject(contract.ID{1}, contract.ID{2}): "x", contract.SiteSubject(contract.ID{1}, contract.ID{2}): "x",
				contract.KeyringSubject(contract.ID{1}, contract.ID{2}): "x", contract.PolicyAskSubject(contract.ID{1}): "",
				"roles.stream.info.EVENTS": "", "roles.consumer.create." + name + ".EVENTS.c": "{}",
			}
			if name != natsserver.Operator {
				forbidden["ops.identity.key.create"], forbidden["ops.metering.rebuild"] = "{}", ""
			}
			for subject, writer := range everywhere {
				if writer != name {
					forbidden[subject] = "forged"
				}
			}
			for _, stream := range []string{contract.AgentStream, contract.EventStream, contract.PolicyStream, contract.PoisonStream} {
				forbidden["$JS.API.STREAM.DELETE."+stream] = ""
				if name != natsserver.Archive || stream != contract.AgentStream {
					forbidden["$JS.API.STREAM.PURGE."+stream] = ""
				}
				if name != natsserver.Operator {
					forbidden["copy.begin."+stream], forbidden["copy.put."+stream] = "", fmt.Sprintf(`{"config":{"name":%q}}`, stream)
				}
				forbidden["copy.piece."+stream] = "x"
				forbidden["$JS.API.STREAM.UPDATE."+stream] = fmt.Sprintf(`{"name":%q,"subjects":["nothing"]}`, stream)
				forbidden["$JS.API.STREAM.SNAPSHOT."+stream] = `{"deliver_subject":"_INBOX.x"}`
				forbidden["$JS.API.CONSUMER.NAMES."+stream] = ""
				forbidden["$JS.API.CONSUMER.LIST."+stream] = ""
				forbidden["$JS.API.CONSUMER.CREATE."+stream] = fmt.Sprintf(`{"stream_name":%q,"config":{"ack_policy":"none"}}`, stream)
				forbidden["$JS.API.CONSUMER.DURABLE.CREATE."+stream+".d"] = fmt.Sprintf(`{"stream_name":%q,"config":{"durable_name":"d","ack_policy":"none"}}`, stream)
				if name != natsserver.Metering || stream != contract.PoisonStream {
					forbidden["$JS.API.STREAM.MSG.DELETE."+stream] = `{"seq":1}`
				}
				if !slices.Contains(loads[name], stream) {
					forbidden["$JS.API.STREAM.MSG.GET."+stream] = `{"seq":1}`
					forbidden["$JS.API.DIRECT.GET."+stream] = `{"seq":1}`
				}
				if !slices.Contains(reads[name], stream) {
					forbidden["$JS.API.CONSUMER.CREATE."+stream+".c"] = fmt.Sprintf(`{"stream_name":%q,"config":{"name":"c","ack_policy":"none"}}`, stream)
				}
			}
			for durable, owner := range durables {
				forbidden["$JS.API.CONSUMER.DELETE.EVENTS."+durable] = ""
				if owner != name {
					forbidden["$JS.API.CONSUMER.MSG.NEXT.EVENTS."+durable] = "1"
					forbidden["$JS.API.CONSUMER.INFO.EVENTS."+durable] = ""
					forbidden["$JS.ACK.EVENTS."+durable+".1.1.1.1.0"] = "+ACK"
				}
			}
			var asking sync.WaitGroup
			for subject, data := range forbidden {
				asking.Go(func() {
					if answer, _ := request(p.by[name], subject, []byte(data), refused); answer != "" {
						t.Errorf("%s is answered: %s", subject, answer)
					}
				})
			}
			asking.Wait()
			said := p.violations(name)
			for subject := range forbidden {
				if !strings.Contains(said, fmt.Sprintf("Publish to %q", subject)) {
					t.Errorf("the server did not refuse %s", subject)
				}
			}
			for _, subject := range []string{
				">", "$SYS.>", "$JS.>", "_R_.>", "ev.>", contract.AgentSubjects, contract.PolicySubjects, contract.AdmissionSubjects, "roles.>", "$JS.EVENT.ADVISORY.>",
			} {
				if _, err := p.by[name].SubscribeSync(subject); err != nil {
					continue
				}
				if said := p.violations(name); !strings.Contains(said, fmt.Sprintf("Subscription to %q", subject)) {
					t.Errorf("%s subscribes to %s", name, subject)
				}
			}
		})
	}
	if now := p.held(); !slices.Equal(now, held) {
		t.Errorf("the streams hold\n%s\nbut held\n%s", strings.Join(now, "\n"), strings.Join(held, "\n"))
	}
	for name := range durables {
		if consumer, err := p.js("platform").Consumer(ctx, contract.EventStream, name); err != nil || consumer.CachedInfo().Delivered.Consumer != 0 {
			t.Errorf("consumer %s: %v", name, err)
		}
	}
}

// consumersOfOthersAreRefused wishes for consumers whose bodies say what the subjects of the
// wishes do not.
func consumersOfOthersAreRefused(t *testing.T, size int) {
	p := newParts(t, size)
	for what, wish := range map[string]struct {
		by     string
		config map[string]any
	}{
		"all of the log":                {natsserver.Gateway, map[string]any{"name": "c"}},
		"another context":               {natsserver.Gateway, map[string]any{"name": "c", "filter_subject": "ev.*.*.metering.>"}},
		"credentials":                   {natsserver.Metering, map[string]any{"name": "c", "filter_subjects": []string{"ev.*.*.metering.>", "ev.*.*.identity.credential.*"}}},
		"an empty filter":               {natsserver.Metering, map[string]any{"name": "c", "filter_subjects": []string{""}}},
		"one filter beside others":      {natsserver.Gateway, map[string]any{"name": "c", "filter_subject": "ev.>", "filter_subjects": []string{"ev.*.*.identity.login.*"}}},
		"delivered into another stream": {natsserver.Metering, map[string]any{"name": "c", "filter_subject": "ev.*.*.metering.>", "deliver_subject": contract.AdmissionSubject(contract.ID{1})}},
		"delivered as a batch":          {natsserver.Identity, map[string]any{"name": "c", "deliver_subject": contract.AgentSubject(contract.ID{1}, contract.ID{2}, usagev1.Lane_LANE_USAGE)}},
		"another's durable":             {natsserver.Metering, map[string]any{"name": "identity-mail", "durable_name": "identity-mail", "filter_subject": "ev.*.*.metering.>"}},
		"a durable that it has not":     {natsserver.Identity, map[string]any{"name": "spare", "durable_name": "spare"}},
	} {
		wish.config["ack_policy"] = "none"
		body, err := json.Marshal(map[string]any{"stream_name": contract.EventStream, "config": wish.config})
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := request(p.by[wish.by], fmt.Sprintf("$JS.API.CONSUMER.CREATE.EVENTS.%s", wish.config["name"]), body, patience)
		if !strings.Contains(answer, `"code":403`) {
			t.Errorf("%s for %s: %s", what, wish.by, answer)
		}
	}
	elsewhere := `{"stream_name":"POLICY","config":{"name":"c","ack_policy":"none"}}`
	if answer, _ := request(p.by[natsserver.Identity], "$JS.API.CONSUMER.CREATE.EVENTS.c", []byte(elsewhere), patience); !strings.Contains(answer, `"code":403`) {
		t.Errorf("a body of another stream: %s", answer)
	}
	for _, name := range []string{contract.AgentStream, contract.EventStream, contract.PolicyStream, contract.PoisonStream} {
		stream, err := p.js("platform").Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Consumers; n != 0 {
			t.Errorf("%s has %d consumers", name, n)
		}
	}
	// What the gateway learns of the log says nothing of whose it is.
	if _, err := p.js(natsserver.Identity).Publish(t.Context(), event("identity", "login"), nil); err != nil {
		t.Fatal(err)
	}
	answer, _ := request(p.by[natsserver.Gateway], "$JS.API.STREAM.INFO.EVENTS", []byte(`{"subjects_filter":">"}`), patience)
	if strings.Contains(answer, contract.ID{1}.String()) || !strings.Contains(answer, "created") {
		t.Errorf("EVENTS is described to the gateway as %s", answer)
	}
}

// noPartForgesByReplies has answers sent where a part may not publish: JetStream sends them
// with its own rights.
func noPartForgesByReplies(t *testing.T, size int) {
	p := newParts(t, size)
	own := map[string]string{natsserver.Metering: event("metering", "catalog"), natsserver.Identity: event("identity", "login")}
	for name, subject := range own {
		forged := nats.NewMsg(subject)
		forged.Header.Set("ce-type", "cetrus.identity.login.enabled.v1")
		if _, err := p.by[name].RequestMsg(forged, patience); err != nil {
			t.Fatal(err)
		}
		if _, err := p.js(name).CreateConsumer(t.Context(), contract.EventStream, jetstream.ConsumerConfig{Name: "of-" + name, FilterSubject: subject, AckPolicy: jetstream.AckNonePolicy}); err != nil {
			t.Fatal(err)
		}
	}
	held := p.held()
	taken, err := p.by[natsserver.Identity].SubscribeSync("ops.identity.>")
	if err != nil {
		t.Fatal(err)
	}
	told, err := p.by[natsserver.Identity].SubscribeSync(contract.SiteSubjects)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.by[natsserver.Identity].Flush(); err != nil {
		t.Fatal(err)
	}
	for name, subject := range own {
		for _, victim := range []string{
			event("identity", "account"), event("metering", "settings"), event("another", "thing"), contract.AgentSubject(contract.ID{1}, contract.ID{2}, usagev1.Lane_LANE_USAGE),
			contract.PolicySubject(contract.ID{1}), contract.AdmissionSubject(contract.ID{1}), contract.PoisonSubject("x"),
			"ops.identity.key.create", contract.SiteSubject(contract.ID{1}, contract.ID{2}),
		} {
			if (victim == "ops.identity.key.create" || strings.HasPrefix(victim, "site.")) && name == natsserver.Identity {
				continue // it would say so to itself
			}
			for ask, body := range map[string]string{
				"$JS.API.DIRECT.GET.EVENTS." + subject:        "",
				"$JS.API.DIRECT.GET.EVENTS":                   `{"last_by_subj":"` + subject + `"}`,
				"$JS.API.STREAM.MSG.GET.EVENTS":               `{"last_by_subj":"` + subject + `"}`,
				"$JS.API.STREAM.INFO.EVENTS":                  "",
				"$JS.API.CONSUMER.MSG.NEXT.EVENTS.of-" + name: "1",
			} {
				if err := p.by[name].PublishRequest(ask, victim, []byte(body)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := p.by[name].Flush(); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(refused) // nothing tells that nothing will come
	if now := p.held(); !slices.Equal(now, held) {
		t.Errorf("the streams hold\n%s\nbut held\n%s", strings.Join(now, "\n"), strings.Join(held, "\n"))
	}
	for _, sub := range []*nats.Subscription{taken, told} {
		if n, _, err := sub.Pending(); err != nil || n != 0 {
			t.Errorf("identity heard %d on %s: %v", n, sub.Subject, err)
		}
	}
	for _, name := range natsserver.Roles() {
		if said := p.violations(name); said != "" {
			t.Errorf("%s was refused what it may ask: %s", name, said)
		}
	}
}

// Whoever judges keys tells identity, and identity alone, when one was used.
func usedKeysAreToldToIdentity(t *testing.T, size int) {
	p := newParts(t, size)
	subject := contract.KeyUseSubject(contract.ID{1})
	heard, err := p.by[natsserver.Identity].SubscribeSync(contract.KeyUseSubjects)
	if err == nil {
		err = p.by[natsserver.Identity].FlushTimeout(patience)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []string{natsserver.Identity, natsserver.Metering, natsserver.Gateway} {
		if m := hears(t, heard, p.by[by], subject, []byte(by)); string(m.Data) != by || m.Subject != subject {
			t.Fatalf("of what %s says %v is heard", by, m)
		}
	}
}

// Metering, and metering alone, asks identity to send the mail of a report, and hears what became of it.
func reportMailIsAskedForByMetering(t *testing.T, size int) {
	p := newParts(t, size)
	subscription, err := p.by[natsserver.Identity].QueueSubscribe(contract.ReportMailSubject, "identity", func(m *nats.Msg) { _ = m.Respond([]byte("sent")) })
	if err == nil {
		err = p.by[natsserver.Identity].FlushTimeout(patience)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	if answer := answered(p.by[natsserver.Metering], contract.ReportMailSubject); answer != "sent" {
		t.Fatalf("metering is answered %q", answer)
	}
	if m, err := p.by[natsserver.Metering].Request(contract.ReportMailSubject, make([]byte, contract.MaxAttachedBytes), patience); err != nil || string(m.Data) != "sent" {
		t.Errorf("metering asks: %v, %v", m, err)
	}
	for _, other := range natsserver.Roles() {
		if other == natsserver.Metering {
			continue
		}
		if err := p.by[other].Publish(contract.ReportMailSubject, nil); err != nil {
			t.Fatal(err)
		}
		if said := p.violations(other); !strings.Contains(said, contract.ReportMailSubject) {
			t.Errorf("%s may ask too: %q", other, said)
		}
	}
}

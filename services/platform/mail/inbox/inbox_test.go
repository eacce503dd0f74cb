package inbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/smtp"
	"strings"
	"testing"
	"time"
)

const patience = time.Minute

func start(t *testing.T, cfg Config) *Inbox {
	t.Helper()
	box, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- box.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if conn, err := net.Dial("tcp", box.smtp.Addr().String()); err == nil {
			t.Error("it still listens", conn.Close())
		}
	})
	return box
}

func get(t *testing.T, box *Inbox, path, host string) (int, string, http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, box.WebURL()+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		request.Host = host
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body), response.Header
}

const message = "From: a@example.com\r\nTo: b@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe_=3Cb=3E?=\r\nMIME-Version: 1.0\r\n" +
	"Content-Type: multipart/alternative; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" +
	"Gr=C3=BC=C3=9Fe %d <script>\r\n--x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html><head></head><script>alert(1)</script></html>\r\n--x--\r\n"

// What is sent is kept, the newest so many, and its page shows it: text as text, HTML where
// nothing runs, all of it raw; and only under loopback's own name.
func TestPage(t *testing.T) {
	box := start(t, Config{Keep: 2})
	for n := range 3 {
		if err := smtp.SendMail(box.smtp.Addr().String(), nil, "a@example.com", []string{"b@example.com"}, fmt.Appendf(nil, message, n+1)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := box.Wait(ctx, func(m Mail) bool { return m.Number == 3 })
	if err != nil || m.Subject != "Grüße <b>" || !strings.HasPrefix(m.Text, "Grüße 3 ") || m.Broken != nil || len(box.Mails()) != 2 {
		t.Fatalf("%+v: %v", m, err)
	}
	if status, body, _ := get(t, box, "", ""); status != http.StatusOK || strings.Contains(body, "/mails/1") || !strings.Contains(body, `"/mails/3">Grüße &lt;b&gt;`) {
		t.Errorf("list: %d %s", status, body)
	}
	if status, body, _ := get(t, box, "mails/3", ""); status != http.StatusOK || strings.Contains(body, "<script") || !strings.Contains(body, "sandbox=") {
		t.Errorf("mail: %d %s", status, body)
	}
	if _, _, header := get(t, box, "mails/3/html", ""); !strings.HasPrefix(header.Get("Content-Security-Policy"), "sandbox") || strings.Contains(header.Get("Content-Security-Policy"), "allow-scripts") {
		t.Errorf("html runs: %v", header)
	}
	if _, body, header := get(t, box, "mails/3/raw", ""); !strings.HasPrefix(header.Get("Content-Type"), "text/plain") || !strings.Contains(body, "=C3=BC") {
		t.Errorf("raw: %v %s", header, body)
	}
	for _, path := range []string{"mails/1", "mails/x", "mails/-3/raw"} {
		if status, _, _ := get(t, box, path, ""); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, _, _ := get(t, box, "mails/3/raw", "evil.example.com"); status != http.StatusMisdirectedRequest {
		t.Errorf("another name: %d", status)
	}
}

// A mail that is too large is refused, and nothing of it kept.
func TestTooLarge(t *testing.T) {
	box := start(t, Config{MaxBytes: 1000})
	err := smtp.SendMail(box.smtp.Addr().String(), nil, "a@example.com", []string{"b@example.com"}, []byte(strings.Repeat("x", 2000)+"\r\n"))
	if err == nil || len(box.Mails()) != 0 {
		t.Errorf("%v, %d mails", err, len(box.Mails()))
	}
}

// Nobody but this machine reaches it.
func TestLoopbackOnly(t *testing.T) {
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:0"} {
		if _, err := New(t.Context(), Config{SMTPListen: address}); err == nil {
			t.Errorf("it listens on %s", address)
		}
		if _, err := New(t.Context(), Config{WebListen: address}); err == nil {
			t.Errorf("its page listens on %s", address)
		}
	}
}

// FuzzRead: whatever comes is shown at least raw.
func FuzzRead(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(message, 1)))
	f.Add([]byte("Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n--\r\n"))
	f.Add([]byte("Subject: =?x?q?y?=\r\nContent-Type: text/plain;;\r\n\r\n="))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if m := read("a", nil, raw, time.Time{}); string(m.Raw) != string(raw) {
			t.Error("it is not kept as it came")
		}
	})
}

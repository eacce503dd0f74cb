package inbox

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"strings"
	"time"
)

// Mail is one mail as it came.
type Mail struct {
	// Number counts the mails of an inbox from 1.
	Number int
	// Sender and Recipients are those that the server was told, not those of the headers.
	Sender     string
	Recipients []string
	Arrived    time.Time
	// Header is that of the mail; nil where it cannot be read.
	Header netmail.Header
	// Subject is decoded.
	Subject string
	// Text and HTML are its two forms; empty where it lacks one.
	Text, HTML string
	// Files are what came with it.
	Files []File
	// Raw is all of it.
	Raw []byte
	// Broken says why it could not be read, or only in part.
	Broken error
}

// File is what came with a mail.
type File struct {
	Name, ContentType string
	Content           []byte
}

// read takes a mail apart. What cannot be read is still shown raw.
func read(sender string, recipients []string, raw []byte, now time.Time) Mail {
	m := Mail{Sender: sender, Recipients: recipients, Arrived: now, Raw: raw}
	message, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		m.Broken = err
		return m
	}
	m.Header = message.Header
	if m.Subject, err = new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject")); err != nil {
		m.Subject, m.Broken = message.Header.Get("Subject"), err
	}
	m.Broken = errors.Join(m.Broken, m.readPart(message.Header.Get, message.Body, 0))
	return m
}

// maxDepth bounds parts in parts.
const maxDepth = 8

func (m *Mail) readPart(header func(string) string, body io.Reader, depth int) error {
	contentType, encoding := header("Content-Type"), header("Content-Transfer-Encoding")
	if depth > maxDepth {
		return errors.New("its parts are nested too deeply")
	}
	if contentType == "" {
		contentType = "text/plain"
	}
	kind, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		return err
	}
	if strings.EqualFold(encoding, "quoted-printable") {
		body = quotedprintable.NewReader(body)
	}
	if strings.EqualFold(encoding, "base64") {
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	if strings.HasPrefix(kind, "multipart/") {
		parts := multipart.NewReader(body, parameters["boundary"])
		for {
			part, err := parts.NextPart() // decodes quoted-printable itself
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := m.readPart(part.Header.Get, part, depth+1); err != nil {
				return err
			}
		}
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if disposition, of, err := mime.ParseMediaType(header("Content-Disposition")); err == nil && disposition == "attachment" {
		m.Files = append(m.Files, File{Name: of["filename"], ContentType: contentType, Content: text})
		return nil
	}
	switch {
	case kind == "text/plain" && m.Text == "":
		m.Text = string(text)
	case kind == "text/html" && m.HTML == "":
		m.HTML = string(text)
	}
	return nil
}

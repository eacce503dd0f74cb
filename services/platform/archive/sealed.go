package archive

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/chacha20poly1305"
)

// A sealed object is
//
//	"CETRUSAR" version:1 kind:1 key:8 nonce:16 length:4 header
//	{ length:4 block }…            length > 0
//	0:4 digest:32
//
// Numbers are big-endian. The header is JSON in clear: where the object belongs must be known
// without a key, and it is authenticated with each block. A block is XChaCha20-Poly1305 of zstd;
// its nonce is the object's and its number, its associated data the SHA-256 of all before the
// first block, its number, and whether it is the last: none can be left out, put elsewhere or
// taken from another object. The digest is the SHA-256 of all before it; it needs no key.
const (
	magic         = "CETRUSAR"
	sealedVersion = 1
	noncePrefix   = 16
	preludeBytes  = len(magic) + 2 + 8 + noncePrefix + 4
	digestBytes   = sha256.Size
	// most* bound what is believed of bytes from outside.
	mostHeader = 1 << 20
	mostBlock  = 32 << 20
)

// Kinds of sealed objects.
const (
	kindSegment = 's'
	kindFork    = 'f'
	kindBackup  = 'b'
)

// Errors of sealed objects.
var (
	// ErrDamaged means that the bytes are not those that were sealed.
	ErrDamaged = errors.New("archive: the object is damaged, or not what it says")
	// ErrOtherKey means that the key that sealed it is not in the file of keys.
	ErrOtherKey = errors.New("archive: the object was sealed under another key: restore that into the file of keys")
)

// digest is the SHA-256 of a sealed object.
type digest [digestBytes]byte

func (d digest) String() string { return fmt.Sprintf("%x", d[:]) }

// newPacker makes what compresses blocks. It is used by one goroutine.
func newPacker() *zstd.Encoder {
	packer, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(blockBytes), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // its options are constants
	}
	return packer
}

// seal makes an object of a header and blocks that are compressed.
func (k *Keys) seal(kind byte, header []byte, blocks [][]byte) ([]byte, digest) {
	with := k.keys[0]
	id := with.id()
	size := preludeBytes + len(header) + 4 + digestBytes
	for _, b := range blocks {
		size += 4 + len(b) + chacha20poly1305.Overhead
	}
	content := make([]byte, 0, size)
	content = append(content, magic...)
	content = append(content, sealedVersion, kind)
	content = append(content, id[:]...)
	var prefix [noncePrefix]byte
	rand.Read(prefix[:])
	content = append(content, prefix[:]...)
	content = binary.BigEndian.AppendUint32(content, uint32(len(header)))
	content = append(content, header...)
	begins := sha256.Sum256(content)
	if len(blocks) == 0 {
		blocks = [][]byte{nil} // so that one is the last
	}
	aead := with.aead()
	for i, b := range blocks {
		content = binary.BigEndian.AppendUint32(content, uint32(len(b)+chacha20poly1305.Overhead))
		content = aead.Seal(content, blockNonce(prefix, i), b, blockData(begins, i, i == len(blocks)-1))
	}
	content = binary.BigEndian.AppendUint32(content, 0)
	sum := sha256.Sum256(content)
	return append(content, sum[:]...), sum
}

func blockNonce(prefix [noncePrefix]byte, i int) []byte {
	return binary.BigEndian.AppendUint64(prefix[:len(prefix):len(prefix)], uint64(i))
}

func blockData(begins [sha256.Size]byte, i int, last bool) []byte {
	data := binary.BigEndian.AppendUint64(begins[:len(begins):len(begins)], uint64(i))
	if last {
		return append(data, 1)
	}
	return append(data, 0)
}

// sealed is an object whose digest was found right; its blocks are still sealed.
type sealed struct {
	header []byte
	digest digest
	key    [8]byte
	prefix [noncePrefix]byte
	begins [sha256.Size]byte
	blocks [][]byte
}

// parse reads an object of a kind, without a key. What it returns shares the content's bytes.
func parse(kind byte, content []byte) (*sealed, error) {
	wrong := func(what string) (*sealed, error) { return nil, fmt.Errorf("%w: %s", ErrDamaged, what) }
	if len(content) < preludeBytes+4+digestBytes {
		return wrong("it is too short")
	}
	body, sum := content[:len(content)-digestBytes], digest(content[len(content)-digestBytes:])
	if sha256.Sum256(body) != sum {
		return wrong("its digest is another")
	}
	if !bytes.HasPrefix(body, []byte(magic)) {
		return wrong("it is no object of an archive")
	}
	rest := body[len(magic):]
	if rest[0] != sealedVersion {
		return nil, fmt.Errorf("archive: the object is of version %d; this release reads %d", rest[0], sealedVersion)
	}
	if rest[1] != kind {
		return wrong(fmt.Sprintf("it is of kind %q, not %q", rest[1], kind))
	}
	s := &sealed{digest: sum, key: [8]byte(rest[2:10]), prefix: [noncePrefix]byte(rest[10 : 10+noncePrefix])}
	rest = rest[10+noncePrefix:]
	n := int(binary.BigEndian.Uint32(rest))
	rest = rest[4:]
	if n > mostHeader || n > len(rest)-4 {
		return wrong("its header is longer than it")
	}
	s.header, rest = rest[:n], rest[n:]
	s.begins = sha256.Sum256(body[:preludeBytes+n])
	for {
		if len(rest) < 4 {
			return wrong("it has no end")
		}
		n := int(binary.BigEndian.Uint32(rest))
		rest = rest[4:]
		if n == 0 {
			break
		}
		if n > len(rest) || n > mostBlock {
			return wrong("a block is longer than it")
		}
		s.blocks, rest = append(s.blocks, rest[:n]), rest[n:]
	}
	if len(rest) != 0 || len(s.blocks) == 0 {
		return wrong("something stands behind its end")
	}
	return s, nil
}

// open opens the blocks one after the other.
func (s *sealed) open(keys *Keys, take func(plain []byte) error) error {
	with, err := keys.named(s.key)
	if err != nil {
		return err
	}
	aead := with.aead()
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(mostBlock))
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer decoder.Close()
	for i, b := range s.blocks {
		packed, err := aead.Open(nil, blockNonce(s.prefix, i), b, blockData(s.begins, i, i == len(s.blocks)-1))
		if err != nil {
			return fmt.Errorf("%w: block %d does not open", ErrDamaged, i)
		}
		plain, err := decoder.DecodeAll(packed, nil)
		if err != nil {
			return fmt.Errorf("%w: block %d: %w", ErrDamaged, i, err)
		}
		if err := take(plain); err != nil {
			return err
		}
	}
	return nil
}

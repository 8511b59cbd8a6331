// Who is online, on how many devices, and who was last seen when: told by Fanlight's lifecycle
// events, and published to all who look.
package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"example.com/backend/fanlight"
)

var (
	gateway       = os.Getenv("GATEWAY")
	api           = fanlight.API{URL: os.Getenv("GATEWAY_API"), Key: secret("API_KEY_FILE")}
	webhookSecret = secret("WEBHOOK_SECRET_FILE")
	jwtSecret     = secret("JWT_SECRET_FILE")
	name          = regexp.MustCompile(`^[\p{L}\p{N}._-]{1,32}$`)
)

// What the gateway tells of a session.
type event struct {
	Type, Session, User string
	Time                time.Time
}

type server struct{ people *people }

func (s server) webhook(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err == nil {
		err = fanlight.Verify(r.Header, body, webhookSecret, time.Now())
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	var event event
	if err := json.Unmarshal(body, &event); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// Sessions without a user are nobody's.
	if event.User != "" {
		s.people.apply(event)
	}
	w.WriteHeader(http.StatusNoContent)
}

// Whoever may log in may see everybody, and everybody may log in; a real application would look at
// the token here.
func (s server) list(w http.ResponseWriter, _ *http.Request) {
	respond(w, s.people.list())
}

// A real application would ask for a password here.
func session(w http.ResponseWriter, r *http.Request) {
	user := r.URL.Query().Get("user")
	if !name.MatchString(user) {
		http.Error(w, "a name has 1 to 32 letters, digits, `.`, `_` or `-`", http.StatusBadRequest)
		return
	}
	token, err := fanlight.MintToken(user, time.Hour, jwtSecret)
	if err != nil {
		http.Error(w, "a fault of the server", http.StatusInternalServerError)
		return
	}
	respond(w, map[string]string{"user": user, "token": token, "gateway": gateway})
}

func respond(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(answer)
}

func page(file string) http.HandlerFunc {
	address, err := url.Parse(gateway)
	if err != nil {
		log.Fatal(err)
	}
	policy := "default-src 'self'; img-src data:; connect-src 'self' ws://" + address.Host
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		http.ServeFile(w, r, file)
	}
}

func secret(variable string) string {
	text, err := os.ReadFile(os.Getenv(variable))
	if err != nil {
		log.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func main() {
	if _, err := fanlight.WebhookKey(webhookSecret); err != nil {
		log.Fatal("WEBHOOK_SECRET_FILE: ", err)
	}
	people, err := load(filepath.Join(os.Getenv("DATA"), "people.json"))
	if err != nil {
		log.Fatal(err)
	}
	server := server{people}
	web := os.Getenv("WEB")
	http.HandleFunc("/fanlight", server.webhook)
	http.HandleFunc("/people", server.list)
	http.HandleFunc("/session", session)
	http.HandleFunc("/app.js", page("app.js"))
	for _, file := range []string{"style.css", "page.js", "native.js"} {
		http.HandleFunc("/web/"+file, page(filepath.Join(web, file)))
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		// By a folder's name: ServeFile sends whoever asks for index.html there.
		page(".")(w, r)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}

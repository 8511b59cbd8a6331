package io.fanlight.examples.backend;

import java.time.Duration;
import java.util.Map;
import java.util.UUID;

import io.fanlight.Fanlight;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.HttpClientErrorException;

/** What it takes to try the backend from a shell, as docs/backends/README.md does. */
@RestController
class TryIt {

  private final FanlightBackend backend;
  private final String jwtSecret;

  TryIt(FanlightBackend backend, @Value("${fanlight.jwt-secret}") String jwtSecret) {
    this.backend = backend;
    this.jwtSecret = jwtSecret;
  }

  /** A real one asks who is there. */
  @GetMapping("/token")
  String token(@RequestParam String user) {
    return Fanlight.mintToken(user, Map.of(), Duration.ofHours(1), jwtSecret);
  }

  /** A real one has nobody else notify its users. The key is of what happened, not of the attempt. */
  @PostMapping("/notify")
  void notify(@RequestParam String user, @RequestBody String text) {
    backend.sendToUser(user, "/user/queue/alerts", Map.of("text", text), UUID.randomUUID().toString());
  }

  @ExceptionHandler
  ResponseEntity<String> refused(HttpClientErrorException error) {
    return ResponseEntity.status(error.getStatusCode()).body(error.getMessage());
  }
}

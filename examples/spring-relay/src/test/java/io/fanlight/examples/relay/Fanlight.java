package io.fanlight.examples.relay;

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

import com.fasterxml.jackson.databind.ObjectMapper;

/** The running Fanlight that the tests use, by default as {@code serve --dev} has it. */
final class Fanlight {

  static final String PUBLIC = System.getProperty("fanlight.public", "127.0.0.1:8080");
  static final String ADMIN = System.getProperty("fanlight.admin", "127.0.0.1:9090");

  private static final HttpClient HTTP = HttpClient.newHttpClient();

  /** A token for {@code user}. */
  static String token(String user) throws IOException, InterruptedException {
    var request = HttpRequest.newBuilder(URI.create("http://" + PUBLIC + "/dev/token?user=" + user));
    var response = HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
    return new ObjectMapper().readTree(response.body()).get("token").asText();
  }

  /** Lets it drain and end; whoever runs it is to start it again. */
  static void drain() throws IOException, InterruptedException {
    var request = HttpRequest.newBuilder(URI.create("http://" + ADMIN + "/drain"));
    var response = HTTP.send(
        request.POST(HttpRequest.BodyPublishers.noBody()).build(),
        HttpResponse.BodyHandlers.discarding());
    if (response.statusCode() >= 300) {
      throw new IOException("POST /drain: " + response.statusCode());
    }
  }

  private Fanlight() {}
}

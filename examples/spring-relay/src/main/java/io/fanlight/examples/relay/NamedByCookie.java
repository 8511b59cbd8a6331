package io.fanlight.examples.relay;

import java.io.IOException;
import java.security.Principal;

import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.Cookie;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import jakarta.servlet.http.HttpServletResponse;
import org.springframework.stereotype.Component;
import org.springframework.web.filter.OncePerRequestFilter;
import org.springframework.web.util.WebUtils;

/** Believes the cookie {@code user=ann}. A real application has Spring Security in its place. */
@Component
class NamedByCookie extends OncePerRequestFilter {

  @Override
  protected void doFilterInternal(
      HttpServletRequest request, HttpServletResponse response, FilterChain chain)
      throws ServletException, IOException {
    Cookie cookie = WebUtils.getCookie(request, "user");
    if (cookie == null) {
      chain.doFilter(request, response);
      return;
    }
    var user = new User(cookie.getValue());
    chain.doFilter(new HttpServletRequestWrapper(request) {
      @Override
      public Principal getUserPrincipal() {
        return user;
      }
    }, response);
  }

  /** Equal by name: SockJS compares who sends with who receives. */
  private record User(String name) implements Principal {

    @Override
    public String getName() {
      return name;
    }
  }
}

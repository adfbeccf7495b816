// Errors for the person at the terminal: one line, both values, what to do (glm/errors.py).
#pragma once

#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

namespace glm {

// A problem that the user can fix: exit code 1.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// A wrong argument: exit code 2.
class UsageError : public Error {
public:
    using Error::Error;
};

// All arguments as one text.
template <typename... Parts>
std::string text_of_all(const Parts&... parts) {
    std::ostringstream out;
    out.imbue(std::locale::classic());  // a program's own one may group digits
    (out << ... << parts);
    return out.str();
}

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    throw Error(text_of_all(parts...));
}

template <typename... Parts>
[[noreturn]] void fail_usage(const Parts&... parts) {
    throw UsageError(text_of_all(parts...));
}

}  // namespace glm

#include <stdio.h>

int main(void) {
    puts("hello from a program compiled by " COMPILER ", sent by a client that could see nothing else");
    return 0;
}

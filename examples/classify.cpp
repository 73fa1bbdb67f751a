// From a photograph to a label:
//     c++ -std=c++17 -o classify classify.cpp -I BUNDLE -L BUNDLE -lmobilenet -Wl,-rpath,BUNDLE
//     ./classify BUNDLE photo.ppm
#include <cstdio>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "mobilenet.h"

namespace {

struct Picture {
    int width = 0, height = 0;
    std::vector<unsigned char> rgb;
};

// A binary .ppm of 8 bits; the largest picture is that of a library opened without options.
Picture read_ppm(const char *path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    int most = 0;
    Picture p;
    if (!file) throw std::runtime_error(std::string(path) + " cannot be opened");
    if (!(file >> kind >> p.width >> p.height >> most) || kind != "P6" || most != 255 || p.width < 1 || p.width > 8192 ||
        p.height < 1 || p.height > 8192)
        throw std::runtime_error(std::string(path) + " is no .ppm (P6) of 8 bits");
    if (file.get() == '\r') file.get();  // lines that end in CR LF
    p.rgb.resize(std::size_t(3) * p.width * p.height);
    if (!file.read(reinterpret_cast<char *>(p.rgb.data()), std::streamsize(p.rgb.size())) || file.get() != EOF)
        throw std::runtime_error(std::string(path) + " has another size than it says");
    return p;
}

void require(int code) {
    if (code) throw std::runtime_error(mobilenet_last_error());
}

}  // namespace

int main(int argc, char **argv) try {
    if (argc != 3) throw std::runtime_error("usage: classify BUNDLE photo.ppm");
    const Picture photo = read_ppm(argv[2]);
    mobilenet *opened = nullptr;
    require(mobilenet_open(argv[1], nullptr, &opened));
    const std::unique_ptr<mobilenet, decltype(&mobilenet_close)> net(opened, mobilenet_close);
    std::vector<unsigned char> scores(mobilenet_describe(net.get())->output[0].bytes);  // of whichever dtype
    require(mobilenet_run_rgb(net.get(), photo.rgb.data(), photo.width, photo.height, 0, scores.data()));
    mobilenet_class best[3];
    for (int i = 0, n = mobilenet_top(net.get(), scores.data(), 3, best); i < n; ++i)
        std::printf("class %d  %6.2f %%  %s\n", best[i].index, 100 * best[i].probability, best[i].label ? best[i].label : "");
} catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
}

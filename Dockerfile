# docker build -t captionlab . && docker run --rm -v "$PWD:/photos" captionlab caption /photos/photo.jpg
# For CUDA: docker build --build-arg TORCH=cu130 -t captionlab . and docker run --gpus all --shm-size=1g ...
FROM python:3.11-slim
ARG TORCH=cpu
WORKDIR /captionlab
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch torchvision \
    --index-url https://download.pytorch.org/whl/${TORCH} --extra-index-url https://pypi.org/simple
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt .
ENTRYPOINT ["captionlab"]

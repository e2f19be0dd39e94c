# Faster R-CNN R50 on COCO 2017: the plain network that configs/faster_rcnn_r50_fdconv.py is compared with. The authors
# of FDConv (CVPR 2025) report box mAP 37.2 for theirs. Upstream's 1x recipe: 1333 x 800, flip only, SGD 0.02, 12
# epochs, two images on each of eight GPUs. With another number of images add --auto-scale-lr.
#
#   tools/dist_train.sh configs/faster_rcnn_r50.py 8
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

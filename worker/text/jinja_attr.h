/* worker/text/jinja_attr.h - obj.name, obj[key], obj[a:b:c], by the rules of Jinja's immutable sandbox. */
#ifndef MW_TEXT_JINJA_ATTR_H
#define MW_TEXT_JINJA_ATTR_H
#include "worker/text/jinja_run.h"
MW_BEGIN_DECLS

/* Methods that templates may call. OPAQUE: Python has it, this has not; it can be looked at, not called. */
typedef enum mw_jmethod {
    MW_JM_OPAQUE,
    MW_JM_CAPITALIZE,
    MW_JM_CHANGED,
    MW_JM_COPY,
    MW_JM_COUNT,
    MW_JM_CYCLE,
    MW_JM_ENDSWITH,
    MW_JM_FIND,
    MW_JM_FORMAT,
    MW_JM_GET,
    MW_JM_INDEX,
    MW_JM_ISALNUM,
    MW_JM_ISALPHA,
    MW_JM_ISASCII,
    MW_JM_ISDECIMAL,
    MW_JM_ISDIGIT,
    MW_JM_ISLOWER,
    MW_JM_ISSPACE,
    MW_JM_ISUPPER,
    MW_JM_ITEMS,
    MW_JM_JOIN,
    MW_JM_KEYS,
    MW_JM_LOWER,
    MW_JM_LSTRIP,
    MW_JM_PARTITION,
    MW_JM_REMOVEPREFIX,
    MW_JM_REMOVESUFFIX,
    MW_JM_REPLACE,
    MW_JM_RFIND,
    MW_JM_RINDEX,
    MW_JM_RPARTITION,
    MW_JM_RSPLIT,
    MW_JM_RSTRIP,
    MW_JM_SPLIT,
    MW_JM_SPLITLINES,
    MW_JM_STARTSWITH,
    MW_JM_STRIP,
    MW_JM_TITLE,
    MW_JM_UPPER,
    MW_JM_VALUES,
} mw_jmethod;

/* A name that some Python type has as an attribute. Masks are of 1 << mw_jtype. */
typedef struct mw_jattr {
    const char *name;
    mw_jmethod method;
    uint32_t has;    /* types with the method */
    uint32_t opaque; /* types whose attribute of that name is not supported */
    uint32_t unsafe; /* types whose method of that name changes them: undefined in the sandbox */
} mw_jattr;
/* NULL when no type has it. */
const mw_jattr *mw_jattr_find(mw_jval name);

/* obj.name: the attribute first, then the item. `attr` is mw_jattr_find(name). */
MW_MUST_CHECK mw_status mw_jattr_get(mw_jrun *r, mw_jval obj, mw_jval name, const mw_jattr *attr, mw_jval *out);
/* obj[key]: the item first, then the attribute. */
MW_MUST_CHECK mw_status mw_jattr_item(mw_jrun *r, mw_jval obj, mw_jval key, mw_jval *out);
/* obj[part[0]:part[1]:part[2]]; absent parts are None. */
MW_MUST_CHECK mw_status mw_jattr_slice(mw_jrun *r, mw_jval obj, const mw_jval part[3], mw_jval *out);

/* What attribute= of a filter means: "a.b.0" as a list of keys. NONE gives an empty list. */
MW_MUST_CHECK mw_status mw_jattr_path(mw_jrun *r, mw_jval attribute, mw_jval *path);
/* The value at a path; an undefined step becomes `fallback` unless that is MISSING or None. */
MW_MUST_CHECK mw_status mw_jattr_walk(mw_jrun *r, mw_jval v, mw_jval path, mw_jval fallback, mw_jval *out);

MW_END_DECLS
#endif

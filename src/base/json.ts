import { LockError } from './errors.ts'

/** Of what is kept in the database, as UTF-8. */
export const MOST_JSON_BYTES = 64 * 1024

/**
 * JSON of `value`, or null if it is undefined. INVALID_ARGUMENT, naming `what`, for what JSON would drop, change or refuse: a
 * function, a bigint, NaN, a Map, a circle; and for more than `most` bytes. Properties that are undefined are left out, and
 * what has a toJSON method, as a Date, is kept as what that gives.
 */
export function toJson(what: string, value: unknown, most = MOST_JSON_BYTES): string | null {
  if (value === undefined) return null
  let text: string | undefined
  try {
    text = JSON.stringify(value, function (this: Record<string, unknown>, key, each: unknown) {
      const reason = isLost(each) ?? isLostBefore(this[key])
      if (reason !== undefined) throw new Unfit(key === '' ? reason : `${reason} in ${JSON.stringify(key)}`)
      return each
    })
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new LockError('INVALID_ARGUMENT', `${what} must be something that JSON carries: ${reason}`, { cause })
  }
  const bytes = Buffer.byteLength(text)
  if (bytes > most) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `${what} is ${bytes} bytes of JSON; the limit is ${most}. Keep the rest in a table of your own`,
    )
  }
  return text
}

export function fromJson(text: string | null): unknown {
  return text === null ? undefined : JSON.parse(text)
}

class Unfit extends Error {}

/** Before its toJSON was called. */
function isLostBefore(value: unknown): string | undefined {
  if (ArrayBuffer.isView(value)) return `a ${value.constructor.name}`
  return value instanceof Date && Number.isNaN(value.getTime()) ? 'an invalid Date' : undefined
}

function isLost(value: unknown): string | undefined {
  switch (typeof value) {
    case 'function':
    case 'symbol':
    case 'bigint':
      return `a ${typeof value}`
    case 'number':
      return Number.isFinite(value) ? undefined : `the number ${value}`
    case 'object': {
      if (value === null || Array.isArray(value)) {
        return Array.isArray(value) && value.includes(undefined) ? 'undefined in an array' : undefined
      }
      const prototype: unknown = Object.getPrototypeOf(value)
      const isPlain = prototype === null || Object.getPrototypeOf(prototype as object) === null
      return isPlain ? undefined : `an object of the class ${value.constructor?.name}`
    }
    default:
      return undefined
  }
}

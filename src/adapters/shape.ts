import { LockError } from '../base/errors.ts'

/**
 * Drivers and ORMs can be told, for all that runs through them, to make something else of what a server sends. Where an
 * adapter can, it asks for the driver's own shape with each statement; the rest is read by these, and by nothing else. What
 * they cannot read is refused rather than taken for "false" or "no row".
 */
export function toBoolean(value: unknown): boolean {
  switch (value) {
    case true:
    case 't':
    case 'true':
    case 1:
    case 1n:
    case '1':
      return true
    case false:
    case 'f':
    case 'false':
    case 0:
    case 0n:
    case '0':
    case null:
      return false
    default:
      throw otherShape('a boolean', value)
  }
}

/** Of whatever a driver was told to make of numbers: text, a bigint, a decimal of some library. */
export function toNumber(value: unknown): number {
  const number = value == null ? Number.NaN : Number(value)
  if (Number.isNaN(number)) throw otherShape('a number', value)
  return number
}

/** Refuses what is no row, by name of one of its columns: an array of values, rows nested by table, renamed columns. */
export function checkRow<Row extends Record<string, unknown>>(row: Row, column: string): Row {
  if (row === null || typeof row !== 'object' || !(column in row))
    throw otherShape(`a row with a column "${column}"`, row)
  return row
}

export function otherShape(expected: string, value: unknown): LockError {
  const found = Array.isArray(value) ? 'an array' : value === undefined ? 'nothing' : `${typeof value} ${String(value)}`
  return new LockError(
    'UNSUPPORTED',
    `this driver does not answer as rowlock can read it: ${found} instead of ${expected}. Give rowlock a pool or an instance without settings such as rowsAsArray, nestTables, row transforms or type parsers for booleans`,
  )
}

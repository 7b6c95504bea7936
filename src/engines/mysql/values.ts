import type { Result } from '../../adapters/adapter.ts'
import { checkRow, otherShape, toNumber } from '../../adapters/shape.ts'
import type { RowHolder } from '../../protocol/lock-row.ts'
import { type Attempt, EXCLUSIVE, type Grant, type Hold, type LockView, type SharedHold } from '../../protocol/store.ts'

/** A lock's row as it was when it was read. */
export interface Row {
  readonly name: string
  readonly owner: string | null
  readonly token: bigint
  readonly label: string
  readonly session: Buffer | null
  readonly sessionGone: boolean
  readonly handedTo: string | null
  readonly takeover: boolean
  readonly remainingMs: number
  readonly held: boolean
  readonly awaited: boolean
  readonly leasesWait: boolean
  readonly tickets: readonly string[]
  /** Of a semaphore. */
  readonly permits: number | null
  /** A semaphore, or a lock that others share, or shared: what is to be made of it, lock-row.ts says (see steps.ts). */
  readonly shared: boolean
  readonly checkpointed: boolean
}

export function toRow(row: Record<string, unknown>): Row {
  checkRow(row, 'name')
  const owner = textOrNull(row.owner)
  const sessionGone = toNumber(row.session_gone) === 1
  const remainingMs = toNumber(row.remaining)
  return {
    name: text(row.name),
    owner,
    token: BigInt(row.token as string | number),
    label: textOrNull(row.holder) ?? '',
    session: bytesOrNull(textOrNull(row.session)),
    sessionGone,
    handedTo: textOrNull(row.handed_to),
    takeover: toNumber(row.takeover) === 1,
    remainingMs,
    held: owner !== null && remainingMs > 0 && !sessionGone,
    awaited: toNumber(row.awaited) === 1,
    leasesWait: toNumber(row.leases_wait) === 1,
    tickets: toList(row.tickets),
    permits: toPermits(row.permits),
    shared: toNumber(row.used) > 0 || toPermits(row.permits) !== null,
    checkpointed: toNumber(row.checkpointed) === 1,
  }
}

/** A lock has none, which is read as 0: where an application has the driver turn numbers into something else, NULL may be lost. */
export function toPermits(stored: unknown): number | null {
  return toNumber(stored) || null
}

export function toList(json: unknown): string[] {
  return json === null ? [] : JSON.parse(text(json))
}

export function byName<R extends Row>(rows: readonly R[]): Map<string, R> {
  return new Map(rows.map((row) => [row.name, row]))
}

export function isOurs(hold: Hold, rows: ReadonlyMap<string, Row>): boolean {
  const row = rows.get(hold.name)
  return row?.owner === hold.owner && row.token === hold.token
}

/** The same of a shared hold. */
export function isSameHold({ owner, token, slot, released }: RowHolder, hold: Hold): boolean {
  return owner === hold.owner && token === hold.token && slot === hold.slot && !released
}

export function toView(row: Row): LockView {
  const { name, owner, token, label, remainingMs, takeover, checkpointed, tickets } = row
  const holder = { name, owner: owner!, token, label, remainingMs, takeover, checkpointed, weight: EXCLUSIVE.weight }
  return {
    name,
    token,
    holders: row.held ? [holder] : [],
    bySession: row.held && row.session !== null,
    promotable: !row.held && row.awaited,
    leasesWait: row.leasesWait,
    tickets,
  }
}

/** What was handed over and is not confirmed yet. */
export function toGrants(row: Row | undefined): Grant[] {
  const process = toHandedTo(row?.handedTo ?? null)
  if (!row?.held || process === null) return []
  const { name, owner, token, remainingMs, takeover, checkpointed } = row
  return [{ name, owner: owner!, token, process, remainingMs, takeover, checkpointed, weight: EXCLUSIVE.weight }]
}

export function toAskedAttempt({ name, owner, ttlMs, holder, session }: Attempt, deadSession: Buffer | null) {
  return {
    name: bytes(name),
    owner: bytes(owner),
    ttl: ttlMs,
    holder: bytes(holder),
    session: bytesOrNull(session),
    deadSession,
  }
}

export function toAskedHold({ name, owner, token }: Hold) {
  return { name: bytes(name), owner: bytes(owner), token }
}

export function toAskedSlot(hold: SharedHold) {
  return { ...toAskedHold(hold), slot: hold.slot }
}

export function toAskedLease(hold: Hold & { readonly ttlMs: number }) {
  return { ...toAskedHold(hold), ttl: hold.ttlMs }
}

/** The process; a transaction that took the lock has left its mark there instead. */
export function toHandedTo(stored: unknown): string | null {
  const handedTo = textOrNull(stored)
  return handedTo?.startsWith('transaction ') ? null : handedTo
}

export function bytes(value: string): Buffer {
  return Buffer.from(value, 'utf8')
}

export function bytesOrNull(value: string | null): Buffer | null {
  return value === null ? null : bytes(value)
}

export function text(value: unknown): string {
  if (typeof value === 'string') return value
  if (!Buffer.isBuffer(value)) throw otherShape('bytes', value)
  return value.toString('utf8')
}

export function textOrNull(value: unknown): string | null {
  return value === null ? null : text(value)
}

export function tokenOf({ insertId }: Result): bigint {
  return BigInt(insertId ?? 0)
}

export interface AskedHold {
  readonly name: Buffer
  readonly owner: Buffer
  readonly token: bigint
}

export interface AskedLease extends AskedHold {
  readonly ttl: number
}

/** Found by the whole key of its slot. */
export interface AskedSlot extends AskedHold {
  readonly slot: number
}

export interface AskedAttempt {
  readonly name: Buffer
  readonly owner: Buffer
  readonly ttl: number | null
  readonly holder: Buffer
  readonly session: Buffer | null
  /** A session that is gone; a hold that depends on it is over. */
  readonly deadSession: Buffer | null
}

export interface AskedWithin extends Omit<AskedAttempt, 'session'> {
  /** Of the transaction that takes it. */
  readonly mark: Buffer
}

import type { Result } from '../../adapters/adapter.ts'
import { checkRow, otherShape, toNumber } from '../../adapters/shape.ts'
import type { Attempt, Grant, Hold, LockState, LockView } from '../../protocol/store.ts'

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
  }
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

export function toView(row: Row): LockView {
  const { name, owner, token, label, remainingMs, takeover, tickets } = row
  return {
    name,
    holders: row.held ? [{ name, owner: owner!, token, label, remainingMs, takeover }] : [],
    bySession: row.held && row.session !== null,
    promotable: !row.held && row.awaited,
    leasesWait: row.leasesWait,
    tickets,
  }
}

/** What was handed over and is not confirmed yet. */
export function toGrants(row: Row | undefined): Grant[] {
  // A transaction that took the lock has left its mark there.
  if (!row?.held || row.handedTo === null || row.handedTo.startsWith('transaction ')) return []
  const { name, owner, token, handedTo: process, remainingMs, takeover } = row
  return [{ name, owner: owner!, token, process, remainingMs, takeover }]
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

export function toAskedLease(hold: Hold & { readonly ttlMs: number }) {
  return { ...toAskedHold(hold), ttl: hold.ttlMs }
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

export function toState(record: Record<string, unknown>): LockState {
  const { name, owner, token, label, remainingMs } = toRow(record)
  return {
    name,
    owner: owner!,
    token,
    holder: label,
    expiresInMs: Math.max(0, remainingMs),
    waiters: Number(record.waiters),
  }
}

export interface AskedHold {
  readonly name: Buffer
  readonly owner: Buffer
  readonly token: bigint
}

export interface AskedLease extends AskedHold {
  readonly ttl: number
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

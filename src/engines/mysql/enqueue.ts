import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { wentTo } from '../../protocol/ids.ts'
import * as lockRow from '../../protocol/lock-row.ts'
import type { EnqueueResult, NewTicket, Store, Withdrawal, WithdrawalResult } from '../../protocol/store.ts'
import { groupedByName, ofEachKind } from '../kinds.ts'
import { byItsName, type Context, inBatches, type Named } from './context.ts'
import { BATCH, batched, type Fragments, NAMES, named, now } from './fragments.ts'
import { byName, bytes, bytesOrNull, type Row, toGrants, toList, toRow, toView } from './values.ts'
import { toLockView, unlocked, type Whole } from './whole.ts'

/** A ticket is dead after that time, even if somebody waits for longer; that caller queues again. */
const LONGEST_WAIT_MS = 24 * 60 * 60 * 1000

export interface AskedTicket {
  readonly name: Buffer
  readonly ticket: Buffer
  readonly joins: Buffer | null
  readonly count: number
  readonly weight: number | null
  readonly permits: number | null
  readonly ttl: number
  readonly holder: Buffer
  readonly session: Buffer | null
  readonly process: Buffer
  readonly transaction: 0 | 1
  readonly wait: number
  /** Waiters in the queue, at most. */
  readonly most: number
}

export function enqueueStatements({ locks, askedLocks, view, waiters }: Fragments) {
  return {
    // Into the last ticket, or behind it, by one expression: json_set() appends what it is to set behind the end.
    enqueue: batched<AskedTicket>(sql`
        update (
          select place.*, coalesce(json_value(place.last, '$.id') = place.joins, 0) as joined
          from (
            select asked.*, coalesce(json_length(l.queue), 0) as length,
                   cast(json_extract(l.queue, concat('$[', json_length(l.queue) - 1, ']')) as char(1000)) as last
            from ${askedLocks}
            where ${waiters} + asked.count <= asked.most and (l.permits is null) = (asked.permits is null)
              and case when l.permits is null then coalesce(asked.weight, 1) >= 1
                       else asked.weight between 1 and l.permits end
            limit ${sql.lit(BATCH)}
            for update skip locked
          ) as place
        ) as place
        straight_join ${locks} as l force index (primary) on l.name = place.name
        set l.queue = json_set(
          coalesce(l.queue, json_array()),
          concat('$[', place.length - place.joined, ']'),
          json_object(
            'id', convert(case when place.joined then place.joins else place.ticket end using utf8mb4),
            'n', cast(place.count + place.joined * coalesce(json_value(place.last, '$.n'), 0) as signed),
            'weight', cast(place.weight as signed),
            'ttl', cast(place.ttl as signed),
            'since', coalesce(
              case when place.joined = 1 then cast(json_value(place.last, '$.since') as signed) end, ${now}),
            'until', greatest(
              cast(${now} + place.wait * 1000 as signed),
              place.joined * cast(coalesce(json_value(place.last, '$.until'), 0) as signed)),
            'holder', hex(place.holder),
            'session', hex(place.session),
            'process', hex(place.process),
            'transaction', place.transaction,
            'change', convert(place.ticket using utf8mb4)))`),

    withdraw: batched<{ name: Buffer; ticket: Buffer; count: number; changeId: Buffer }>(sql`
        update (
          select asked.name, asked.count, asked.changeId, cast(substring_index(json_unquote(
                   json_search(l.queue, 'one', convert(asked.ticket using utf8mb4), null, '$[*].id')), '.', 1) as char(30)) as path
          from ${askedLocks}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as place
        straight_join ${locks} as l force index (primary) on l.name = place.name
        set l.queue = case
          when json_extract(l.queue, concat(place.path, '.n')) > place.count
            then json_set(l.queue, concat(place.path, '.n'),
                          cast(json_extract(l.queue, concat(place.path, '.n')) - place.count as signed),
                          concat(place.path, '.change'), convert(place.changeId using utf8mb4))
          when json_length(l.queue) > 1 then json_remove(l.queue, place.path) end
        where place.path is not null`),

    // What of a queue is not read else: the last change of each ticket, and how many wait.
    changes: named(sql`
        select ${view}, cast(json_extract(l.queue, '$[*].change') as char) as changes, ${waiters} as waiters
        from ${locks} as l
        where l.name in ${NAMES}
        limit ${sql.lit(BATCH)}`),
  }
}

export function enqueue({ runner, fragments, steps }: Context<never>): Pick<Store<never>, 'enqueue' | 'withdraw'> {
  const statements = enqueueStatements(fragments)

  async function readChanges(items: readonly Named[]) {
    const { rows } = await runner.keep(statements.changes(items.map(({ name }) => bytes(name))))
    return byName(rows.map((row) => ({ ...toRow(row), changes: toList(row.changes), waiters: Number(row.waiters) })))
  }

  async function enqueueBatch(asked: readonly NewTicket[], maxWaiters: number): Promise<EnqueueResult[]> {
    const { affectedRows } = await runner.keep(
      statements.enqueue(asked.map((ticket) => toAskedTicket(ticket, maxWaiters))),
    )
    const queues = await readChanges(asked)
    const wholes = await readShared(queues)
    return asked.map((each) => {
      const { name, ticket, joins, count } = each
      const row = queues.get(name)
      if (row === undefined) return { outcome: 'missing' }
      if (!lockRow.suits(row, each)) return { outcome: 'unfit', kind: lockRow.kindOf(row) }
      const whole = wholes.get(name)
      // A ticket whose turn has come since is not in the queue any more.
      const owners = [row.owner, ...(whole?.row.holders.map(({ owner }) => owner) ?? [])]
      const isOurs = row.tickets.includes(ticket) || owners.some((owner) => wentTo(owner, ticket))
      if (isOurs || row.changes.includes(ticket) || Number(affectedRows) === asked.length) {
        const view = whole === undefined ? toView(row) : toLockView(whole)
        return { outcome: 'queued', ticket: isOurs ? ticket : (joins ?? ticket), view }
      }
      return { outcome: row.waiters + count > maxWaiters ? 'full' : 'locked' }
    })
  }

  function readShared(rows: ReadonlyMap<string, Row>): Promise<Map<string, Whole>> {
    return steps.read([...rows.values()].filter(({ shared }) => shared))
  }

  async function withdrawBatch(asked: readonly Withdrawal[]): Promise<WithdrawalResult[]> {
    const changeId = randomBytes(8).toString('hex')
    const { affectedRows } = await runner.keep(
      statements.withdraw(
        asked.map(({ name, ticket, count }) => ({
          name: bytes(name),
          ticket: bytes(ticket),
          count,
          changeId: bytes(changeId),
        })),
      ),
    )
    const rows = await readChanges(asked)
    const wholes = await readShared(rows)
    const isAll = Number(affectedRows) === asked.length
    return asked.map(({ name, ticket }) => {
      const row = rows.get(name)
      const withdrawn = isAll || !row?.tickets.includes(ticket) || row.changes.includes(changeId)
      const whole = wholes.get(name)
      if (whole === undefined) return { withdrawn, grants: toGrants(row).filter(({ owner }) => wentTo(owner, ticket)) }
      // Asked of a queue that they have left already.
      const [reply] = lockRow.withdraw(whole.row, [{ name, ticket, count: 0 }], unlocked(whole.world)).reply
      return withdrawn ? reply! : { withdrawn, grants: reply!.grants }
    })
  }

  /** By lock-row.ts, which puts several of one name in their order. */
  async function enqueueSeveral(
    name: string,
    asked: readonly NewTicket[],
    maxWaiters: number,
  ): Promise<readonly EnqueueResult[]> {
    const tickets = asked.map((ticket) => ({ ...ticket, waitMs: Math.min(ticket.waitMs, LONGEST_WAIT_MS) }))
    const missing = asked.map((): EnqueueResult => ({ outcome: 'missing' }))
    const results = await steps.step<readonly EnqueueResult[]>(name, missing, (row, world) => {
      const step = lockRow.enqueue(row, tickets, maxWaiters, world)
      if (!world.locked) return step
      const reply = step.reply.map((each) => (each.outcome === 'queued' ? LOCKED : each))
      return { row, reply, grants: [] }
    })
    // Closed gates are not in the row.
    const whole = results.some(isQueued) ? (await steps.read([{ name }])).get(name) : undefined
    return results.map((result) =>
      isQueued(result) && whole !== undefined ? { ...result, view: toLockView(whole) } : result,
    )
  }

  function withdrawSeveral(name: string, asked: readonly Withdrawal[]): Promise<readonly WithdrawalResult[]> {
    const missing = asked.map(() => ({ withdrawn: true, grants: [] }))
    return steps.step<readonly WithdrawalResult[]>(name, missing, (row, world) => {
      const step = lockRow.withdraw(row, asked, world)
      if (!world.locked) return step
      const waiting = new Set(row.queue.map(({ ticket }) => ticket))
      const reply = step.reply.map(({ grants }, index) => ({ withdrawn: !waiting.has(asked[index]!.ticket), grants }))
      return { row, reply, grants: [] }
    })
  }

  // Those that may fail without an effect, and be asked again, go first.
  return {
    enqueue: (asked, maxWaiters) =>
      ofEachKind(
        asked,
        isAloneIn(asked),
        (alone) => inBatches(alone, (batch) => enqueueBatch(batch, maxWaiters)),
        (several) => byItsName(several, (name, same) => enqueueSeveral(name, same, maxWaiters)),
      ),
    withdraw: (asked) =>
      ofEachKind(
        asked,
        isAloneIn(asked),
        (alone) => inBatches(alone, withdrawBatch),
        (several) => byItsName(several, withdrawSeveral),
      ),
  }
}

const LOCKED: EnqueueResult = { outcome: 'locked' }

function isQueued(result: EnqueueResult): result is EnqueueResult & { readonly outcome: 'queued' } {
  return result.outcome === 'queued'
}

/** Whether it is the only one of its name. */
function isAloneIn(asked: readonly Named[]): (one: Named) => boolean {
  const groups = groupedByName(asked)
  return ({ name }) => groups.get(name)!.length === 1
}

function toAskedTicket(asked: NewTicket, maxWaiters: number): AskedTicket {
  const { name, ticket, joins, count, weight, permits, ttlMs, holder, session, process, transaction, waitMs } = asked
  return {
    name: bytes(name),
    ticket: bytes(ticket),
    joins: bytesOrNull(joins),
    count,
    weight,
    permits,
    ttl: ttlMs,
    holder: bytes(holder),
    session: bytesOrNull(session),
    process: bytes(process),
    transaction: transaction ? 1 : 0,
    wait: Math.min(waitMs, LONGEST_WAIT_MS),
    most: maxWaiters,
  }
}

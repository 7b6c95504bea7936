import { sql } from 'kysely'
import { suits } from '../../protocol/lock-row.ts'
import type { EnqueueResult, NewTicket, Store } from '../../protocol/store.ts'
import { ofEachName } from '../kinds.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { clockToken, type Fragments, few, unseen, waiting } from './fragments.ts'
import { inOrder, numbered, type Row, toKind, toView, withOrdinals } from './rows.ts'

export function enqueueStatements({ locks, named, view }: Fragments) {
  /** The first is added to the last ticket of the queue. */
  const joins = sql`coalesce(l.queue->-1->>'id' = a.joins, false)`
  const fits = sql`${named('suits_1')}(t.weight, t.permits, l.permits)`

  return {
    enqueue: statement<{ asked: string; maxWaiters: number }>(
      'postgres',
      (p) => sql`
        with asked as materialized (
          select * from json_to_recordset(${unseen(p.asked)}::json)
            as a(i int, name text, joins text, count int, "waitMs" float8, tickets json)
          order by name collate "C"
          ${few}
        ), open as (
          select a.*, l.ctid as place
          from asked as a, lateral (
            select l.ctid from ${locks} as l where l.name = a.name for no key update skip locked
          ) as l
          ${few}
        ), queued as (
          update ${locks} as l
          set queue = case
            when ${joins}
              then jsonb_set(l.queue, '{-1}', l.queue->-1 || jsonb_build_object(
                     'n', (l.queue->-1->>'n')::int + a.count,
                     'until', greatest((l.queue->-1->>'until')::float8, ${clockToken} + a."waitMs" * 1000)))
            else coalesce(l.queue, '[]') end
            || (
              select coalesce(jsonb_agg(jsonb_build_object(
                       'id', t.ticket, 'n', t.count, 'weight', t.weight, 'since', ${clockToken}, 'ttl', t."ttlMs", 'holder', t.holder, 'session', t.session,
                       'process', t.process, 'listening', t.listening, 'provenAlive', t."provenAlive", 'until', ${clockToken} + t."waitMs" * 1000)
                     || case when t.transaction then '{"transaction": true}' else '{}' end::jsonb order by t.i), '[]')
              from (
                select t.*, sum(t.count) over (order by t.i) as wanted
                from json_to_recordset(a.tickets)
                  as t(i int, ticket text, count int, weight int, permits int, "ttlMs" float8, holder text, session text, process text,
                       listening boolean, "provenAlive" boolean, transaction boolean, "waitMs" float8)
                where ${fits}
              ) as t
              where t.wanted + (${waiting}) <= ${p.maxWaiters}::int
                and not (t.i = 1 and ${joins}))
          from open as a
          where l.ctid = a.place
            and (select t.count from json_to_recordset(a.tickets) as t(count int, weight int, permits int) where ${fits} limit 1)
                + (${waiting}) <= ${p.maxWaiters}::int
          returning l.name, ${view}
        )
        select case when q.name is not null then 'queued'
                    when l.place is null then 'missing'
                    when l.place = (select place from open as o where o.i = a.i) then 'full' else 'locked' end as outcome,
               a.i, q.leases_wait, q.row_token, q.holders, q.promotable, q.tickets, l.permits
        from asked as a
        left join queued as q on q.name = a.name
        left join lateral (select l.ctid as place, l.permits from ${locks} as l where l.name = a.name limit 1) as l on true`,
    ),
  }
}

export function enqueue(context: Context<never>): Store<never>['enqueue'] {
  const { runner } = context
  const statements = compiled(context, enqueueStatements)
  return (tickets, maxWaiters) =>
    ofEachName(tickets, async (groups) => {
      const asked = groups.map((group) => {
        const [{ name, joins, count, waitMs }] = group
        return {
          name,
          joins,
          count,
          waitMs,
          tickets: withOrdinals(group.map(({ name: _, joins: __, ...terms }) => terms)),
        }
      })
      const { rows } = await runner.keep(statements().enqueue({ asked: numbered(asked), maxWaiters }))
      return inOrder(rows, groups.length).map((row, index) => toResults(groups[index]!, row!))
    })
}

/** Of all tickets of one lock. */
function toResults(tickets: readonly [NewTicket, ...NewTicket[]], row: Row): EnqueueResult[] {
  const outcome = row.outcome as EnqueueResult['outcome']
  if (outcome === 'missing') return tickets.map(() => ({ outcome }))
  const kind = toKind(row.permits)
  const permits = kind === 'lock' ? null : kind.permits
  const view = outcome === 'queued' ? toView(tickets[0].name, row) : undefined
  const queued = new Set(view?.tickets)
  return tickets.map((asked, index): EnqueueResult => {
    if (!suits({ permits }, asked)) return { outcome: 'unfit', kind }
    if (view === undefined) return { outcome: outcome as 'full' | 'locked' }
    if (queued.has(asked.ticket)) return { outcome: 'queued', ticket: asked.ticket, view }
    // There was room for one of them, and so for the first.
    return index === 0 ? { outcome: 'queued', ticket: asked.joins!, view } : { outcome: 'full' }
  })
}

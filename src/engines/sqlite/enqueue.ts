import { sql } from 'kysely'
import * as lockRow from '../../protocol/lock-row.ts'
import type { EnqueueResult, NewTicket, Store, Withdrawal, WithdrawalResult } from '../../protocol/store.ts'
import { groupedByName, ofEachName } from '../kinds.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments, now, seen } from './fragments.ts'
import { byName, type Seen, toSeen } from './rows.ts'

export function enqueueStatements({ locks, waiters }: Fragments) {
  return {
    enqueue: statement<{ tickets: string; maxWaiters: number }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set queue = case
          when l.queue ->> '$[#-1].id' = asked.value ->> 'joins'
            then json_set(l.queue, '$[#-1].n', (l.queue ->> '$[#-1].n') + (asked.value ->> 'count'),
                                   '$[#-1].until', max(l.queue ->> '$[#-1].until', ${now} + (asked.value ->> 'waitMs')))
          else json_insert(coalesce(l.queue, '[]'), '$[#]', json_object(
                 'id', asked.value ->> 'ticket', 'n', asked.value ->> 'count', 'weight', asked.value ->> 'weight',
                 'ttl', asked.value ->> 'ttlMs', 'holder', asked.value ->> 'holder',
                 'process', asked.value ->> 'process', 'since', ${now}, 'until', ${now} + (asked.value ->> 'waitMs')))
          end
        from json_each(${p.tickets}) as asked
        where l.name = asked.value ->> 'name' and ${waiters} + (asked.value ->> 'count') <= ${p.maxWaiters}
          and case when l.permits is null then asked.value ->> 'permits' is null
                   else asked.value ->> 'permits' is not null and asked.value ->> 'weight' <= l.permits end
        returning name, queue ->> '$[#-1].id' as ticket, ${seen}`,
    ),

    // Rows are written as they are if all that is left of the ticket is the hold that it was handed.
    withdraw: statement<{ withdrawals: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set queue = (
          select nullif(json_group_array(json(case
                   when waiting.value ->> 'id' = asked.value ->> 'ticket'
                     then json_set(waiting.value, '$.n', (waiting.value ->> 'n') - (asked.value ->> 'count'))
                   else waiting.value end)), '[]')
          from json_each(l.queue) as waiting
          where waiting.value ->> 'id' <> asked.value ->> 'ticket' or waiting.value ->> 'n' > asked.value ->> 'count')
        from json_each(${p.withdrawals}) as asked
        where l.name = asked.value ->> 'name'
          and (substr(l.owner, 1, 16) = asked.value ->> 'ticket'
               or exists (select 1 from json_each(l.shares) where substr(value ->> 'owner', 1, 16) = asked.value ->> 'ticket')
               or exists (select 1 from json_each(l.queue) as waiting where waiting.value ->> 'id' = asked.value ->> 'ticket'))
        returning name, ${seen}`,
    ),
  }
}

export function enqueue({
  runner,
  fragments,
  file,
  steps,
}: Context<never>): Pick<Store<never>, 'enqueue' | 'withdraw'> {
  const statements = enqueueStatements(fragments)

  /** By lock-row.ts, which puts several of one name in their order. */
  function enqueueSeveral(asked: readonly NewTicket[], maxWaiters: number): Promise<EnqueueResult[]> {
    return ofEachName(asked, (groups) =>
      steps.step<Group<NewTicket>, readonly EnqueueResult[]>(
        toAsked(groups),
        (row, { items }, world) =>
          row === undefined
            ? { row, reply: items.map(() => ({ outcome: 'missing' })), grants: [] }
            : lockRow.enqueue(row, items, maxWaiters, world),
        { ifBusy: { reply: ({ items }) => items.map(() => ({ outcome: 'locked' })), begun: false } },
      ),
    )
  }

  function withdrawSeveral(asked: readonly Withdrawal[]): Promise<WithdrawalResult[]> {
    return ofEachName(asked, (groups) =>
      steps.step<Group<Withdrawal>, readonly WithdrawalResult[]>(
        toAsked(groups),
        (row, { items }, world) =>
          row === undefined
            ? { row, reply: items.map(() => ({ withdrawn: true, grants: [] })), grants: [] }
            : lockRow.withdraw(row, items, world),
        { ifBusy: { reply: ({ items }) => items.map(() => ({ withdrawn: false, grants: [] })), begun: false } },
      ),
    )
  }

  return {
    async enqueue(asked, maxWaiters) {
      await file.assertSame()
      if (hasNameTwice(asked)) return enqueueSeveral(asked, maxWaiters)
      const ask = asked.filter((ticket) => lockRow.suits(ticket, ticket))
      const { rows } = await runner.run(statements.enqueue({ tickets: JSON.stringify(ask), maxWaiters }))
      const queued = byName(rows)
      const rest = asked.filter(({ name }) => !queued.has(name))
      const standing = rest.length === 0 ? new Map<string, Seen>() : await steps.read(rest)
      return asked.map((ticket) => {
        const done = queued.get(ticket.name)
        if (done !== undefined) {
          const { row, world } = toSeen(done)
          return { outcome: 'queued', ticket: done.ticket as string, view: lockRow.view(row!, world) }
        }
        const { row, world } = standing.get(ticket.name)!
        if (row === undefined) return { outcome: 'missing' }
        const [reply] = lockRow.enqueue(row, [ticket], maxWaiters, world).reply
        // A row that is there, with room in its queue, was created since.
        return reply!.outcome === 'queued' ? { outcome: 'missing' } : reply!
      })
    },

    async withdraw(asked) {
      if (hasNameTwice(asked)) return withdrawSeveral(asked)
      const { rows } = await runner.run(statements.withdraw({ withdrawals: JSON.stringify(asked) }))
      const rest = byName(rows)
      return asked.map(({ name, ticket }) => {
        const done = rest.get(name)
        if (done === undefined) return { withdrawn: true, grants: [] }
        const { row, world } = toSeen(done)
        // Of the row without them, as it is now.
        return lockRow.withdraw(row!, [{ name, ticket, count: 0 }], world).reply[0]!
      })
    },
  }
}

function hasNameTwice(asked: readonly { readonly name: string }[]): boolean {
  return groupedByName(asked).size < asked.length
}

/** What is asked about one lock. */
interface Group<Item> {
  readonly name: string
  readonly items: readonly Item[]
}

function toAsked<Item extends { readonly name: string }>(groups: readonly (readonly [Item, ...Item[]])[]) {
  return groups.map((items): Group<Item> => ({ name: items[0].name, items }))
}

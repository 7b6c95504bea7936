import { describe, expect, it } from 'vitest'
import { type Account, audit, type Books, type Entry, openingAccounts } from '../../src/cli/demo/ledger.ts'

const [first, second, third] = openingAccounts().filter(({ branch }) => branch === 'branch:1') as [
  Account,
  Account,
  Account,
]
const entries: readonly Entry[] = [
  { branch: 'branch:1', token: 10n, worker: 1, seq: 1, source: first.id, target: second.id, amount: 30 },
  { branch: 'branch:1', token: 11n, worker: 2, seq: 1, source: second.id, target: third.id, amount: 20 },
]
const books: Books = {
  accounts: openingAccounts().map((account) => {
    if (account.id === first.id) return { ...account, balance: account.balance - 30, writes: 1 }
    if (account.id === second.id) return { ...account, balance: account.balance + 10, writes: 2 }
    if (account.id === third.id) return { ...account, balance: account.balance + 20, writes: 1 }
    return account
  }),
  entries,
}
const acknowledged = new Set(['1/1', '2/1'])

function withAccount(id: number, change: Partial<Account>): Books {
  return {
    ...books,
    accounts: books.accounts.map((account) => (account.id === id ? { ...account, ...change } : account)),
  }
}

describe('the audit of the books', () => {
  it('finds nothing wrong with honest ones', () => {
    expect(audit(books, acknowledged)).toEqual({ lostWrites: 0, moneyOff: 0, problems: [] })
  })

  it('accepts a transfer that a killed worker committed and could not acknowledge', () => {
    expect(audit(books, new Set(['1/1'])).problems).toEqual([])
  })

  it('counts the writes of which an account does not know', () => {
    const { lostWrites, problems } = audit(withAccount(second.id, { writes: 1 }), acknowledged)
    expect(lostWrites).toBe(1)
    expect(problems).toEqual([`account ${second.id} shows 1 of the 2 transfers in its ledger`])
  })

  it('notices a balance that was overwritten although the count was not', () => {
    const { moneyOff, problems } = audit(withAccount(third.id, { balance: third.balance }), acknowledged)
    expect(moneyOff).toBe(-20)
    expect(problems).toHaveLength(2)
  })

  it('counts an acknowledged transfer that is not in the ledger as two lost writes', () => {
    const { lostWrites, problems } = audit(books, new Set([...acknowledged, '3/7']))
    expect(lostWrites).toBe(2)
    expect(problems).toEqual(['1 acknowledged transfers are not in the ledger'])
  })

  it.each([
    ['falls', 9n],
    ['repeats', 10n],
  ])('notices a token that %s in the order of commits', (_, token) => {
    const disordered = { ...books, entries: [entries[0]!, { ...entries[1]!, token }] }
    expect(audit(disordered, acknowledged).problems).toEqual([`branch:1: token ${token} was committed after 10`])
  })

  it('does not compare the tokens of different locks', () => {
    const disjoint = { ...books, entries: [entries[0]!, { ...entries[1]!, branch: 'branch:2', token: 9n }] }
    expect(audit(disjoint, acknowledged).problems).toEqual([])
  })

  it('notices a transfer that was made twice', () => {
    const twice = { ...books, entries: [...entries, { ...entries[1]!, token: 12n }] }
    expect(audit(twice, acknowledged).problems).toContain('a transfer was made twice')
  })

  it('is not content when nothing was written', () => {
    expect(audit({ accounts: openingAccounts(), entries: [] }, new Set()).problems).toEqual(['nothing was written'])
  })
})

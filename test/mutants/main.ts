/**
 * Weakens the stores one clause at a time and tells which tests notice. `tsx test/mutants/main.ts [parts of names]`; exits
 * with 1 if a mutant survives.
 */
import { judge, type Mutant, type Verdict } from './mutant.ts'
import { MUTANTS } from './mutants.ts'

const parts = process.argv.slice(2)
const chosen = MUTANTS.filter(({ name }) => parts.length === 0 || parts.some((part) => name.includes(part)))
let survivors = 0

function tell({ name }: Mutant, verdict: Verdict): void {
  if (verdict.killed) {
    console.log(`killed    ${name}\n          by ${verdict.by[0]}`)
  } else {
    survivors++
    console.log(`SURVIVED  ${name}\n          ${verdict.why}`)
  }
}

await judge(chosen, tell)
console.log(`${chosen.length - survivors} killed, ${survivors} survived`)
process.exitCode = survivors === 0 && chosen.length > 0 ? 0 : 1
